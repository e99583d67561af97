/** A record of the weights' hash, valid while the files' device, inode, size and times are unchanged. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeWhole } from "../files.ts";
import type { PartFiles } from "./gguf/part-files.ts";

/** Its first line is the hash. A line of `identityOf` follows for each weights file. */
const recordFile = "weights.sha256";
/** Time stamps of file systems may be this coarse, so a file that changed just now may change again without a new time stamp. */
const timestampMs = 2000;

export interface HashRecord {
  folder: string;
  /** Unix milliseconds. */
  now(): number;
}

/** Reads the hash from the record if possible. A record that cannot be read or written costs only time. */
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
