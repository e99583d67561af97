/** The lock lists the text that the embedded adapters are trained and measured on, byte for byte. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { pinnedPackage, sha256 } from "./packages.ts";
import type { CorpusSource } from "./read-corpus.ts";

export const lockFolder = fileURLToPath(new URL("../corpora/", import.meta.url));
const lockPath = join(lockFolder, "lock.json");
export const defaultCorpusFolder = fileURLToPath(new URL("../../../.cache/corpora", import.meta.url));
/** Path relative to the root of the checkout. */
export const shownCorpusFolder = ".cache/corpora";

/** Fields that programs read. corpora/README.md describes all fields. */
const lockedCorpus = z.object({
  name: z.string(),
  /** corpora/README.md explains the roles. */
  role: z.enum(["training", "left-out", "development", "new"]),
  licence: z.string(),
  packages: z.array(pinnedPackage),
  /** Hash of the documents' texts (`corpusHash`). */
  sha256,
  documents: z.int(),
  /** Hashes of documents that were left out because they nearly repeat another document. */
  removed: z.array(z.string()),
});
const lockSchema = z.object({ format: z.literal(1), corpora: z.array(lockedCorpus) });

export type LockedCorpus = z.infer<typeof lockedCorpus>;
export type CorpusLock = z.infer<typeof lockSchema>;

/** `hash` is the SHA-256 of the lock's file. */
export async function readLock(): Promise<{ lock: CorpusLock; hash: string }> {
  const text = await readFile(lockPath, "utf8");
  return { lock: lockSchema.parse(JSON.parse(text)), hash: createHash("sha256").update(text).digest("hex") };
}

/** Hashes of documents of the lock whose licences ask for more than a notice (TEXT_LICENCES.txt), so that we ship no excerpts of them. */
export const withheldDocuments: ReadonlySet<string> = new Set([
  ...["2ee07df6bcbb27d4", "8156237a29bfec9b"], // cpp-headers 394, 399
  ...["f1e270e6c814e8dc", "ecb5a4c68d416c59"], // go-programs 1435, 1437
]);

export function documentHash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

export function lockedSources(corpora: readonly LockedCorpus[], folder: string): CorpusSource[] {
  return corpora.map(({ name, licence, sha256 }) => ({ name, path: join(folder, `${name}.jsonl`), licence, sha256 }));
}
