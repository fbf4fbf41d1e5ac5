package wire

import "strings"

// typeOf gives the type by the extension of the first name that has a known one.
func typeOf(names ...string) string {
	for _, name := range names {
		if t := TypeByName(name); t != "" {
			return t
		}
	}
	return ""
}

// TypeByName gives the media type for the extension of a file name, "" for none
// or an unknown one. The table is ours and fixed: that of the host differs from
// machine to machine, and so would answers.
func TypeByName(name string) string {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return ""
	}
	return types[strings.ToLower(name[dot+1:])]
}

// types has the extensions that are common on the web. Text that browsers show
// names its charset, as otherwise they guess.
var types = map[string]string{
	"txt": "text/plain; charset=utf-8", "text": "text/plain; charset=utf-8", "log": "text/plain; charset=utf-8",
	"htm": "text/html; charset=utf-8", "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
	"js": "text/javascript; charset=utf-8", "mjs": "text/javascript; charset=utf-8",
	"csv": "text/csv; charset=utf-8", "md": "text/markdown; charset=utf-8", "xml": "text/xml; charset=utf-8",
	"ics": "text/calendar; charset=utf-8", "vcf": "text/vcard; charset=utf-8", "vtt": "text/vtt; charset=utf-8",
	"json": "application/json", "jsonld": "application/ld+json", "map": "application/json",
	"xhtml": "application/xhtml+xml", "rss": "application/rss+xml", "atom": "application/atom+xml",
	"wasm": "application/wasm", "webmanifest": "application/manifest+json", "yaml": "application/yaml", "yml": "application/yaml",
	"toml": "application/toml", "sql": "application/sql",

	"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "apng": "image/apng", "gif": "image/gif",
	"webp": "image/webp", "avif": "image/avif", "heic": "image/heic", "heif": "image/heif", "svg": "image/svg+xml",
	"bmp": "image/bmp", "ico": "image/x-icon", "tif": "image/tiff", "tiff": "image/tiff", "psd": "image/vnd.adobe.photoshop",

	"mp3": "audio/mpeg", "m4a": "audio/mp4", "aac": "audio/aac", "ogg": "audio/ogg", "oga": "audio/ogg",
	"opus": "audio/ogg", "flac": "audio/flac", "wav": "audio/wav", "weba": "audio/webm", "mid": "audio/midi", "midi": "audio/midi",
	"mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "ogv": "video/ogg",
	"avi": "video/x-msvideo", "mkv": "video/matroska", "mpeg": "video/mpeg", "mpg": "video/mpeg", "3gp": "video/3gpp",
	"m3u8": "application/vnd.apple.mpegurl", "mpd": "application/dash+xml",

	"pdf": "application/pdf", "ps": "application/postscript", "rtf": "application/rtf", "epub": "application/epub+zip",
	"doc": "application/msword", "xls": "application/vnd.ms-excel", "ppt": "application/vnd.ms-powerpoint",
	"docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	"pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"odt":  "application/vnd.oasis.opendocument.text", "ods": "application/vnd.oasis.opendocument.spreadsheet",
	"odp": "application/vnd.oasis.opendocument.presentation", "parquet": "application/vnd.apache.parquet",

	"zip": "application/zip", "gz": "application/gzip", "tgz": "application/gzip", "bz2": "application/x-bzip2",
	"xz": "application/x-xz", "zst": "application/zstd", "7z": "application/x-7z-compressed", "rar": "application/vnd.rar",
	"tar": "application/x-tar", "jar": "application/java-archive", "deb": "application/vnd.debian.binary-package",

	"woff": "font/woff", "woff2": "font/woff2", "ttf": "font/ttf", "otf": "font/otf",
}
