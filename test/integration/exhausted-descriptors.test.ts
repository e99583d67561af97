/** A backend that is out of file descriptors cannot start processes: only the requests that need one fail. */
import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/temporary-folder.ts";

const script = path.join(import.meta.dirname, "../support/exhausted-descriptors.ts");

test("an engine that cannot restart and a fitter that cannot start fail their own requests alone", async () => {
  const folder = temporaryFolder();
  const command = 'ulimit -n 80 && exec "$0" "$@"';
  const run = promisify(execFile)("bash", ["-c", command, process.execPath, script, folder], { timeout: 30_000 });
  const [engine, fit, last] = (await run).stdout.trim().split("\n");
  expect(engine).toMatch(/^engine cannot be started: .*EMFILE/);
  expect(fit).toMatch(/^fit .*cannot be started: .*EMFILE/);
  expect(last).toBe("alive");
});
