import { createHash } from "node:crypto";
import { glob, readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Document, documentsOf, isCorpusFile, withEnoughDocuments } from "./documents.ts";

export interface CorpusSource {
  name: string;
  path: string;
  licence: string | null;
  /** Hash in the lock. Absent if the corpus is not in the lock. */
  sha256?: string;
}

export type Corpus = Awaited<ReturnType<typeof readCorpus>>;

/** `argument` is `PATH` or `NAME=PATH`. */
export function parseSource(argument: string): CorpusSource {
  const named = /^([\w.-]+)=(.+)$/.exec(argument);
  const path = named ? named[2] : argument;
  return { name: named ? named[1] : basename(path), path, licence: null };
}

/** Documents in path order, without duplicates. Throws an Error without any text, or if a locked corpus is missing or differs. */
export async function readCorpus({ name, path, licence, sha256: locked }: CorpusSource) {
  const files = await filesOf(path).catch((cause: unknown) => {
    if (!locked) throw cause;
    throw new Error(`corpus ${name} is not in ${dirname(path)}: run npm run corpora -- ${dirname(path)}`, { cause });
  });
  const byText = new Map<string, Document>();
  for (const file of files.sort()) {
    for (const document of documentsOf(file, await readFile(file, "utf8"))) {
      if (!byText.has(document.text)) byText.set(document.text, document);
    }
  }
  if (byText.size === 0) throw new Error(`corpus ${name}: no text in ${path} (.txt, .md, .rst and .jsonl are read)`);
  const documents = withEnoughDocuments([...byText.values()]);
  const sha256 = corpusHash(documents.map(({ text }) => text));
  if (locked && sha256 !== locked) throw new Error(`corpus ${name} has SHA-256 ${sha256}, the lock ${locked}`);
  return { name, licence, sha256, documents };
}

/** Hashes the texts in order, each followed by a zero byte. */
export function corpusHash(texts: readonly string[]): string {
  const hash = createHash("sha256");
  for (const text of texts) hash.update(text).update("\0");
  return hash.digest("hex");
}

async function filesOf(path: string): Promise<string[]> {
  if (path.includes("*")) return Array.fromAsync(glob(path));
  if ((await stat(path)).isFile()) return [path];
  const entries = await Array.fromAsync(glob("**/*", { cwd: path, withFileTypes: true }));
  return entries
    .filter((entry) => entry.isFile() && isCorpusFile(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}
