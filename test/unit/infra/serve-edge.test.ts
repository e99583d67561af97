/** What a start prints once it serves, for people on a terminal and for programs. A new key is printed on a terminal only. */
import { expect, test } from "vitest";
import { type Ready, readyText } from "../../../infra/serve-edge.ts";

const backends = [{ url: "http://127.0.0.1:8788", pid: 7 }];
const local: Ready = { edge: "http://127.0.0.1:8787", key: "sk-known", made: null, backends };
const made = { file: "state/api-key", isNew: true };
const open: Ready = { edge: "https://192.0.2.7:443", key: "sk-secret", made, backends };

test("on a terminal: the page, the key and the documents; elsewhere one line", () => {
  const shown = readyText(local, { json: false }, true);
  const parts = ["open  http://127.0.0.1:8787\n", "key   sk-known\n", "docs  http://127.0.0.1:8787/docs\n"];
  for (const part of parts) expect(shown).toContain(part);
  expect(readyText(local, { json: false }, false)).toBe("ready http://127.0.0.1:8787 key sk-known");
  expect(readyText(local, { json: false, log: "human" }, false)).toContain("open  http://127.0.0.1:8787\n");
  const { edge, key } = local;
  for (const options of [{ json: true }, { json: false, log: "json" }] as const) {
    expect(JSON.parse(readyText(local, options, true))).toEqual({ ready: true, edge, key, backends });
  }
});

test("a key is shown on a terminal alone, and only when it is new; its file is always named", () => {
  const kept = { ...open, made: { ...made, isNew: false } };
  const logs = [{ json: true }, { json: false, log: "json" }, { json: false, log: "human" }, { json: false }] as const;
  for (const options of logs) {
    for (const [ready, isTerminal] of [
      [open, false],
      [kept, false],
      [kept, true],
    ] as const) {
      expect(readyText(ready, options, isTerminal)).not.toContain("sk-secret");
      expect(readyText(ready, options, isTerminal)).toContain("state/api-key");
    }
  }
  expect(readyText(open, { json: false }, true)).toMatch(/key {3}sk-secret\n.*kept in state\/api-key\n/);
});
