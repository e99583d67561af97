/** Stores the SHA-256 of weights for the next start. The record is invalid if a file's device, inode, size or times changed. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeWhole } from "../files.ts";
import type { PartFiles } from "./gguf/part-files.ts";

/** The first line is the hash. A line of `identityOf` follows for each weights file. */
const recordFile = "weights.sha256";
/** The coarsest time stamp of file systems, in milliseconds. A newer file may change again without a new time stamp. */
const timestampMs = 2000;

export interface HashRecord {
  folder: string;
  /** Unix milliseconds. */
  now(): number;
}

/** The hash of `file`: from a valid record, else from `hash`. A record that cannot be read or written costs only time. */
export async function recordedHash(
  file: PartFiles,
  { folder, now }: HashRecord,
  hash: (file: PartFiles) => string,
): Promise<string> {
  const path = join(folder, recordFile);
  const identity = identityOf(file);
  const record = await readFile(path, "utf8").catch(() => "");
  const recorded = record.slice(0, record.indexOf("\n"));
  if (/^[0-9a-f]{64}$/.test(recorded) && record === `${recorded}\n${identity}`) return recorded;
  const sha256 = hash(file);
  const changedMs = Math.max(...file.stats().map(({ ctimeMs }) => Number(ctimeMs)));
  if (identityOf(file) === identity && changedMs < now() - timestampMs) {
    await writeWhole(path, `${sha256}\n${identity}`).catch(() => undefined);
  }
  return sha256;
}

function identityOf(file: PartFiles): string {
  const lines = file
    .stats()
    .map(({ dev, ino, size, mtimeNs, ctimeNs }) => [dev, ino, size, mtimeNs, ctimeNs].join(" "));
  return lines.join("\n");
}
