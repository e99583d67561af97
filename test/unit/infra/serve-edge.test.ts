/** The key of a start is printed on a terminal only, and only when it is new. */
import { expect, test } from "vitest";
import { type Ready, readyText } from "../../../infra/serve-edge.ts";

const backends = [{ url: "http://127.0.0.1:8788", pid: 7 }];
const made = { file: "state/api-key", isNew: true };
const open: Ready = { edge: "https://192.0.2.7:443", key: "sk-secret", made, backends };

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
