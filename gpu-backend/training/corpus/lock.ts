/**
 * The corpus lock: which text the embedded adapters are trained and measured on, to the byte. Equal locks mean equal text and
 * equal splits.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { pinnedPackage, sha256 } from "./packages.ts";
import { type Corpus, type CorpusSource, readCorpus } from "./read-corpus.ts";

export const lockFolder = fileURLToPath(new URL("../corpora/", import.meta.url));
const lockPath = join(lockFolder, "lock.json");
/** Where fetched corpora are kept unless told otherwise. */
export const defaultCorpusFolder = fileURLToPath(new URL("../../../.cache/corpora", import.meta.url));
/** The same as help texts show it, from the root of the checkout. */
export const shownCorpusFolder = ".cache/corpora";

const lockedCorpus = z.strictObject({
  name: z.string(),
  /**
   * training: adapters are trained on it. Adapters are measured on the others: "left-out" are families that training could have
   * used, drawn by the hash of their names; "new" has no kin among the training text; "development" helped to choose how adapters
   * are made and served, so figures leave it out.
   */
  role: z.enum(["training", "left-out", "development", "new"]),
  what: z.string(),
  licence: z.string(),
  packages: z.array(pinnedPackage),
  /** Over the documents' texts, in order, each ended by a zero byte. */
  sha256,
  documents: z.int(),
  /** Of a training corpus. */
  splits: z.strictObject({ train: z.int(), validation: z.int(), test: z.int() }).nullable(),
  /** First 16 digits of the hashes of documents that were left out as near-duplicates of text elsewhere. */
  removed: z.array(z.string()),
  /** Share of the test documents' n-grams that the training text of the embedded base has. Measured once, not recomputed. */
  overlapWithBase: z.number().nullable(),
  /** Characters of each document, in order. */
  lengths: z.array(z.int()),
});
const lockSchema = z.strictObject({
  format: z.literal(1),
  recorded: z.iso.date(),
  /** The base whose training text `overlapWithBase` refers to. */
  base: z.strictObject({ weights: sha256, missing: z.string() }),
  corpora: z.array(lockedCorpus),
});

export type LockedCorpus = z.infer<typeof lockedCorpus>;
export type CorpusLock = z.infer<typeof lockSchema>;

export async function readLock(): Promise<{ lock: CorpusLock; hash: string }> {
  const text = await readFile(lockPath, "utf8");
  return { lock: lockSchema.parse(JSON.parse(text)), hash: createHash("sha256").update(text).digest("hex") };
}

/** The hash that identifies a document in the lock. */
export function documentHash(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** Where the locked corpora of a role are, once `npm run corpora` has fetched them. */
export function lockedSources(lock: CorpusLock, role: LockedCorpus["role"], folder: string): CorpusSource[] {
  return lock.corpora
    .filter((corpus) => corpus.role === role)
    .map(({ name, licence }) => ({ name, path: join(folder, `${name}.jsonl`), licence }));
}

/** Reads the fetched corpora of a role. Throws an Error when one is missing or is not the locked one, byte for byte. */
export async function lockedCorpora(role: LockedCorpus["role"], folder: string): Promise<Corpus[]> {
  const { lock } = await readLock();
  const read: Corpus[] = [];
  for (const { name } of lockedSources(lock, role, folder)) read.push(await readLocked(lock, name, folder));
  return read;
}

/** Reads one fetched corpus of the lock. Throws an Error when it is missing or is not the locked one, byte for byte. */
export async function readLocked(lock: CorpusLock, name: string, folder: string): Promise<Corpus> {
  const locked = lock.corpora.find((corpus) => corpus.name === name);
  if (!locked) throw new Error(`the corpus lock has no ${name}`);
  const source = { name, path: join(folder, `${name}.jsonl`), licence: locked.licence };
  const corpus = await readCorpus(source).catch((cause: unknown) => {
    throw new Error(`corpus ${name} is not in ${folder}: run npm run corpora -- ${folder}`, { cause });
  });
  if (locked.sha256 !== corpus.sha256) {
    throw new Error(`corpus ${name} has SHA-256 ${corpus.sha256}, the lock ${locked.sha256}`);
  }
  return corpus;
}
