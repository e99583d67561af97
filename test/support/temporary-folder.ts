import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { atEnd } from "./at-end.ts";

/** Makes a folder that is removed with what it holds: after the running test, or after the file's tests if none runs yet. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "chameleon-test-"));
  atEnd(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  return folder;
}
