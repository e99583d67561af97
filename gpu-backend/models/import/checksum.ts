import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { nullIfMissing } from "../../files.ts";

export interface Checksum {
  /** `git-blob` is git's SHA-1 of a file in the repository, `sha256` the SHA-256 of a file in Git LFS. */
  kind: "sha256" | "git-blob";
  hex: string;
}

export async function checksumOf(path: string, kind: Checksum["kind"]): Promise<Checksum> {
  const hash = createHash(kind === "sha256" ? "sha256" : "sha1");
  if (kind === "git-blob") hash.update(`blob ${(await stat(path)).size}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return { kind, hex: hash.digest("hex") };
}

export async function hasChecksum(path: string, { kind, hex }: Checksum): Promise<boolean> {
  const found = await checksumOf(path, kind).catch(nullIfMissing);
  return found?.hex === hex;
}
