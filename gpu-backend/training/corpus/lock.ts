/** The corpus lock: which text the embedded adapters are trained and measured on, byte for byte. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { pinnedPackage, sha256 } from "./packages.ts";
import type { CorpusSource } from "./read-corpus.ts";

export const lockFolder = fileURLToPath(new URL("../corpora/", import.meta.url));
const lockPath = join(lockFolder, "lock.json");
/** Where fetched corpora are kept by default. */
export const defaultCorpusFolder = fileURLToPath(new URL("../../../.cache/corpora", import.meta.url));
/** The same folder in help texts, relative to the root of the checkout. */
export const shownCorpusFolder = ".cache/corpora";

const lockedCorpus = z.strictObject({
  name: z.string(),
  /**
   * "training": adapters are trained on it. "left-out": a family that training could have used, chosen by the hash of its name.
   * "new": text unlike any training text. "development": helped to choose how adapters are made and served, so it is not measured.
   */
  role: z.enum(["training", "left-out", "development", "new"]),
  what: z.string(),
  licence: z.string(),
  packages: z.array(pinnedPackage),
  /** `corpusHash` of the documents' texts. */
  sha256,
  documents: z.int(),
  /** Number of documents in each split; null unless the corpus is trained on. */
  splits: z.strictObject({ train: z.int(), validation: z.int(), test: z.int() }).nullable(),
  /** `documentHash` of the documents that were left out as near-duplicates of text elsewhere. */
  removed: z.array(z.string()),
  /** Share of the test documents' n-grams that also occur in the training text of the base. Measured once, not recomputed. */
  overlapWithBase: z.number().nullable(),
  /** Characters of each document, in order. */
  lengths: z.array(z.int()),
});
const lockSchema = z.strictObject({
  format: z.literal(1),
  recorded: z.iso.date(),
  /** The base that `overlapWithBase` refers to, and which part of its training text could not be compared. */
  base: z.strictObject({ weights: sha256, missing: z.string() }),
  corpora: z.array(lockedCorpus),
});

export type LockedCorpus = z.infer<typeof lockedCorpus>;
export type CorpusLock = z.infer<typeof lockSchema>;

/** The lock, and the SHA-256 of its file. */
export async function readLock(): Promise<{ lock: CorpusLock; hash: string }> {
  const text = await readFile(lockPath, "utf8");
  return { lock: lockSchema.parse(JSON.parse(text)), hash: createHash("sha256").update(text).digest("hex") };
}

/** The hash that identifies a document in the lock. */
export function documentHash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** The files of corpora that `npm run corpora` has fetched into `folder`. */
export function lockedSources(corpora: readonly LockedCorpus[], folder: string): CorpusSource[] {
  return corpora.map(({ name, licence, sha256 }) => ({ name, path: join(folder, `${name}.jsonl`), licence, sha256 }));
}
