import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { atEnd } from "./at-end.ts";

/** The folder is removed after the running test, or after the file's tests outside of a test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "chameleon-test-"));
  atEnd(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  return folder;
}
