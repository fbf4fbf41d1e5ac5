package main

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"weedd/daemon/config"
)

// logControl changes level and format of all loggers that come from one, while
// they are in use.
type logControl struct {
	level  slog.LevelVar
	asJSON atomic.Bool
}

// newLog makes a logger and what controls it.
func newLog(w io.Writer, l config.Log) (*slog.Logger, *logControl) {
	c := &logControl{}
	c.set(l)
	opts := &slog.HandlerOptions{Level: &c.level}
	return slog.New(&logHandler{slog.NewTextHandler(w, opts), slog.NewJSONHandler(w, opts), &c.asJSON}), c
}

// set follows a configuration that has been checked.
func (c *logControl) set(l config.Log) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err == nil {
		c.level.Set(level)
	}
	c.asJSON.Store(l.Format == "json")
}

// logHandler keeps both formats ready, attributes and groups included, so that
// loggers already handed out follow a change too.
type logHandler struct {
	text, json slog.Handler
	asJSON     *atomic.Bool
}

func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.text.Enabled(ctx, l) }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.asJSON.Load() {
		return h.json.Handle(ctx, r)
	}
	return h.text.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return &logHandler{h.text.WithAttrs(a), h.json.WithAttrs(a), h.asJSON}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{h.text.WithGroup(name), h.json.WithGroup(name), h.asJSON}
}
