//go:build e2e

package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What programs that were not written for weedd do: upload, read, read a part,
// upload again under the same idempotency key, delete. Each gets the addresses of
// master and volume server, a file of 40 MiB, which is cut into chunks, and a small
// one, and ends with code 0 only if all went as it should.
var programs = []struct{ name, command, script string }{
	{"curl", "bash", `
set -euo pipefail
field() { sed "s/.*\"$1\":\"\([^\"]*\)\".*/\1/"; }
for file in "$LARGE" "$SMALL"; do
  fid=$(curl -fsS -F "file=@$file;filename=a b.bin" "http://$MASTER/submit" | field fid)
  curl -fsSL "http://$MASTER/$fid" | cmp - "$file"
  curl -fsS -r 5-14 "http://$VOLUME/$fid" | cmp - <(tail -c +6 "$file" | head -c 10)
  curl -fsSI "http://$VOLUME/$fid" | tr -d '\r' | grep -qix "content-length: $(stat -c %s "$file")"
  curl -fsS -OJ --output-dir "$DIR" "http://$VOLUME/$fid?dl=true" && cmp "$DIR/a b.bin" "$file" && rm "$DIR/a b.bin"
  curl -fsS -X DELETE "http://$VOLUME/$fid" >/dev/null
  [ "$(curl -s -o /dev/null -w '%{http_code}' "http://$VOLUME/$fid")" = 404 ]
done
fid=$(curl -fsS "http://$MASTER/dir/assign" | field fid)
curl -fsS -T "$SMALL" "http://$VOLUME/$fid" >/dev/null
curl -fsS --compressed "http://$VOLUME/$fid" | cmp - "$SMALL"
digest="sha-256=:$(openssl dgst -sha256 -binary "$LARGE" | base64 -w0):"
curl -fsS --data-binary "@$LARGE" -H 'Content-Type: a/b' -H "Content-Digest: $digest" "http://$MASTER/submit" >/dev/null
[ "$(curl -s -o /dev/null -w '%{http_code}' --data-binary "@$SMALL" -H 'Content-Type: a/b' -H "Content-Digest: $digest" "http://$MASTER/submit")" = 400 ]
`},
	{"python", "python3", `
import hashlib, http.client, json, os, urllib.request, uuid
master, volume = os.environ["MASTER"], os.environ["VOLUME"]
for path in os.environ["LARGE"], os.environ["SMALL"]:
    data = open(path, "rb").read()
    boundary = uuid.uuid4().hex
    body = (b"--%s\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.bin\"\r\nContent-Type: application/x-test\r\n\r\n" % boundary.encode()
            + data + b"\r\n--%s--\r\n" % boundary.encode())
    answers = []
    key = str(uuid.uuid4())
    for _ in range(2):
        c = http.client.HTTPConnection(master)
        c.request("POST", "/submit", body, {"Content-Type": "multipart/form-data; boundary=" + boundary, "Idempotency-Key": key})
        r = c.getresponse()
        assert r.status == 201, (r.status, r.read())
        answers.append(json.loads(r.read()))
        c.close()
    assert answers[0] == answers[1], answers
    assert answers[0]["size"] == len(data), answers
    url = "http://" + answers[0]["fileUrl"]
    with urllib.request.urlopen(url) as r:
        assert r.headers["Content-Type"] == "application/x-test", r.headers
        assert hashlib.sha256(r.read()).digest() == hashlib.sha256(data).digest()
        tag = r.headers["ETag"]
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers={"If-None-Match": tag}))
        raise AssertionError("not 304")
    except urllib.error.HTTPError as e:
        assert e.code == 304, e.code
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=-7"})) as r:
        assert r.status == 206 and r.read() == data[-7:]
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE")) as r:
        assert r.status == 202
`},
	{"node", "node", `
const fs = require("fs"), assert = require("assert");
const { MASTER, VOLUME, LARGE, SMALL } = process.env;
(async () => {
  for (const path of [LARGE, SMALL]) {
    const data = fs.readFileSync(path);
    const form = new FormData();
    form.append("note", "a field before the file");
    form.append("file", new Blob([data], { type: "application/x-test" }), "ä.bin");
    const stored = await fetch("http://" + MASTER + "/submit", { method: "POST", body: form });
    assert.equal(stored.status, 201, await stored.clone().text());
    const { fid, size } = await stored.json();
    assert.equal(size, data.length);
    const url = "http://" + VOLUME + "/" + fid;
    const read = await fetch(url, { headers: { Origin: "http://elsewhere.example" } });
    assert.equal(read.headers.get("access-control-allow-origin"), "*");
    assert(Buffer.from(await read.arrayBuffer()).equals(data));
    const part = await fetch(url, { headers: { Range: "bytes=3-9" } });
    assert.equal(part.status, 206);
    assert(Buffer.from(await part.arrayBuffer()).equals(data.subarray(3, 10)));
    assert.equal((await fetch(url, { method: "DELETE" })).status, 202);
    assert.equal((await fetch(url)).status, 404);
  }
})().catch((e) => { console.error(e); process.exit(1); });
`},
}

// otherPrograms runs them against one node.
func otherPrograms(t *testing.T, binary string) {
	n := loneNode(t, binary)
	n.start()
	awaitReady(t, n)
	dir := t.TempDir()
	large, small := filepath.Join(dir, "large"), filepath.Join(dir, "small")
	data := make([]byte, 40<<20)
	rand.Read(data)
	for path, b := range map[string][]byte{large: data, small: bytes.Repeat([]byte("some text. "), 100)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			if _, err := exec.LookPath(p.command); err != nil && p.command == "node" {
				t.Skip("node is not installed")
			}
			cmd := exec.Command(p.command, "-")
			if p.command == "bash" {
				cmd = exec.Command("bash", "-s")
			}
			cmd.Stdin = strings.NewReader(p.script)
			cmd.Env = append(os.Environ(), "MASTER="+n.master(), "VOLUME="+n.volume(), "LARGE="+large, "SMALL="+small, "DIR="+dir, "no_proxy=*")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	stop(t, n)
}

// toolsWithTokens runs every tool against a node whose public ports want tokens for
// reads and for writes.
func toolsWithTokens(t *testing.T, binary string) {
	n := loneNode(t, binary)
	dir := t.TempDir()
	for _, key := range []string{"write", "read"} {
		path := filepath.Join(dir, key)
		if err := os.WriteFile(path, []byte("the secret of "+key), 0o600); err != nil {
			t.Fatal(err)
		}
		n.env = append(n.env, "WEEDD_ACCESS_"+strings.ToUpper(key)+"_KEY="+path)
	}
	n.start()
	awaitReady(t, n)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(dir, "back")
	for _, args := range [][]string{
		{"upload", "--master", n.master(), "--manifest", filepath.Join(dir, "m.jsonl"), file},
		{"download", "--master", n.master(), filepath.Join(dir, "m.jsonl"), back},
		{"bench", "--master", n.master(), "--count", "200", "--concurrency", "4"},
		{"chaos", "--nodes", n.master(), "--steady", "1s", "--for", "1s"},
	} {
		if code, out, errOut := tool(t, binary, args...); code != 0 || strings.Contains(out, "401") {
			t.Errorf("weedd %v: exit code %d\n%s%s", args, code, out, errOut)
		}
	}
	if b, err := os.ReadFile(filepath.Join(back, "file")); err != nil || string(b) != "content" {
		t.Errorf("downloaded %q, %v", b, err)
	}
	stop(t, n)
}
