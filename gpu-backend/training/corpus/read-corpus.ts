/** Reads a corpus from disk: a file, a folder or a glob pattern. */
import { createHash } from "node:crypto";
import { glob, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Document, documentsOf, isCorpusFile, withEnoughDocuments } from "./documents.ts";

/** What the caller names: where the text is, and under which licence, if known. */
export interface CorpusSource {
  name: string;
  path: string;
  licence: string | null;
}

export interface Corpus {
  name: string;
  licence: string | null;
  /** SHA-256 over the documents' texts, in order. */
  sha256: string;
  documents: Document[];
}

/** `PATH` or `NAME=PATH`; without a name the path's last part serves. */
export function parseSource(argument: string): CorpusSource {
  const named = /^([\w.-]+)=(.+)$/.exec(argument);
  const path = named ? named[2] : argument;
  return { name: named ? named[1] : basename(path), path, licence: null };
}

/** Reads the documents in path order, each text once. Throws an Error when nothing is found. */
export async function readCorpus(source: CorpusSource): Promise<Corpus> {
  const files = (await filesOf(source.path)).sort();
  const seen = new Set<string>();
  const documents: Document[] = [];
  for (const file of files) {
    for (const document of documentsOf(file, await readFile(file, "utf8"))) {
      if (seen.has(document.text)) continue;
      seen.add(document.text);
      documents.push(document);
    }
  }
  if (documents.length === 0) {
    throw new Error(`corpus ${source.name}: no text in ${source.path} (.txt, .md, .rst and .jsonl are read)`);
  }
  const enough = withEnoughDocuments(documents);
  return { name: source.name, licence: source.licence, sha256: corpusHash(enough), documents: enough };
}

/** SHA-256 over the documents' texts, in order, each ended by a zero byte. */
export function corpusHash(documents: readonly Document[]): string {
  const hash = createHash("sha256");
  for (const { text } of documents) hash.update(text).update("\0");
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
