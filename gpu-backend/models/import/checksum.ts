/** The two hashes that a hub names a file by, of files on disk. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { nullIfMissing } from "../../files.ts";

export interface Checksum {
  /** `git-blob`: SHA-1 as git counts it, of small files; SHA-256 of those in large file storage. */
  kind: "sha256" | "git-blob";
  hex: string;
}

/** Reads the file in pieces. */
export async function checksumOf(path: string, kind: Checksum["kind"]): Promise<Checksum> {
  const hash = createHash(kind === "sha256" ? "sha256" : "sha1");
  if (kind === "git-blob") hash.update(`blob ${(await stat(path)).size}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return { kind, hex: hash.digest("hex") };
}

/** Whether the file is there with this checksum. */
export async function hasChecksum(path: string, { kind, hex }: Checksum): Promise<boolean> {
  const found = await checksumOf(path, kind).catch(nullIfMissing);
  return found?.hex === hex;
}
