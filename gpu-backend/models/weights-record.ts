/**
 * Remembers the SHA-256 of a base's weights, so that the next start does not read them. The record holds while every file has the
 * device, inode, size and times that it had: the system itself sets the time of a file's last change (ctime), so that
 * content which was replaced under the old size and modification time is hashed again, too.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { writeWhole } from "../files.ts";
import type { PartFiles } from "./gguf/part-files.ts";

const recordFile = "weights.json";
/** The coarsest time stamp of a file system, in milliseconds: a younger file may change once more without a new time. */
const timestampMs = 2000;

const recordSchema = z.strictObject({
  files: z.array(z.string()),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

export interface HashRecord {
  folder: string;
  /** A clock of Unix milliseconds. */
  now(): number;
}

/**
 * The hash of `file` by the record or, unless it holds, by `hash`, which reads the file. A record that cannot be read or written
 * costs time only.
 */
export async function recordedHash(
  file: PartFiles,
  { folder, now }: HashRecord,
  hash: (file: PartFiles) => string,
): Promise<string> {
  const path = join(folder, recordFile);
  const files = identitiesOf(file);
  const record = recordSchema.safeParse(await readJson(path)).data;
  if (record && isSame(record.files, files)) return record.sha256;
  const sha256 = hash(file);
  const changedMs = Math.max(...file.stats().map(({ ctimeMs }) => Number(ctimeMs)));
  if (isSame(identitiesOf(file), files) && changedMs < now() - timestampMs) {
    await writeWhole(path, JSON.stringify({ files, sha256 })).catch(() => undefined);
  }
  return sha256;
}

function identitiesOf(file: PartFiles): string[] {
  return file.stats().map(({ dev, ino, size, mtimeNs, ctimeNs }) => [dev, ino, size, mtimeNs, ctimeNs].join(" "));
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  return a.join("\n") === b.join("\n");
}

/** null where there is no such file, or no JSON in it. */
async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch {
    return null;
  }
}
