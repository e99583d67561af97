/** Records the corpus lock again, from the newest versions of its packages. Figures of the previous lock no longer hold. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Progress } from "../progress.ts";
import { type Split, splitDocuments } from "./documents.ts";
import { linesOf, textOf } from "./fetch-corpora.ts";
import { type CorpusLock, documentHash, type LockedCorpus, lockPath, readLock } from "./lock.ts";
import { pinNewest, unpackPinned } from "./packages.ts";
import { corpusHash } from "./read-corpus.ts";
import { nearDuplicates, Shingler } from "./shingles.ts";

/** A corpus with its packages pinned anew, and the texts of its documents. */
interface Draft {
  corpus: LockedCorpus;
  texts: string[];
}

export async function makeLock(folder: string, recorded: string, progress: Progress): Promise<void> {
  const archives = join(folder, "packages");
  const { lock } = await readLock();
  const drafts: Draft[] = [];
  progress.stage("corpora", lock.corpora.length);
  for (const corpus of lock.corpora) {
    const packages = [];
    for (const { registry, name, isTool } of corpus.packages) {
      packages.push(await pinNewest({ registry, name, isTool }, archives));
    }
    const folders: string[] = [];
    for (const pinned of packages) folders.push(await unpackPinned(pinned, archives));
    const texts = (await linesOf(corpus, folders)).map(textOf);
    drafts.push({ corpus: { ...corpus, packages }, texts });
    progress.advance(drafts.length, `${corpus.name}: ${texts.length} documents`);
  }
  progress.note("comparing documents");
  const removed = removedFrom(drafts);
  const corpora = drafts.map((draft) => lockedOf(draft, removed.get(draft.corpus.name)!));
  await writeFile(lockPath, written({ ...lock, recorded, corpora }));
}

/**
 * Near-duplicates to remove from each corpus: of two, the one that is not new text, else not test, else not validation. A removal
 * moves the bounds between splits, so this repeats until nothing more is found.
 */
function removedFrom(drafts: readonly Draft[]): Map<string, Set<string>> {
  const removed = new Map(drafts.map(({ corpus }) => [corpus.name, new Set<string>()]));
  const shingler = new Shingler();
  for (let found = true; found; ) {
    const compared = drafts
      .flatMap(({ corpus: { name, role }, texts }) => {
        const documents = texts.filter((text) => !removed.get(name)!.has(text)).map((text) => ({ text }));
        const groups = role === "new" ? documents.map(() => "new" as const) : splitDocuments(name, documents);
        return documents.map(({ text }, i) => ({ name, rank: ranks[groups[i]], group: `${name}/${groups[i]}`, text }));
      })
      .sort((a, b) => a.rank - b.rank);
    const duplicates = nearDuplicates(compared, shingler).map((index) => compared[index]);
    const leaving = duplicates.filter(({ rank }) => rank !== ranks.new);
    for (const { name, text } of leaving) removed.get(name)!.add(text);
    found = leaving.length > 0;
  }
  return removed;
}

const ranks: Record<Split | "new", number> = { new: 0, test: 1, validation: 2, train: 3 };

function lockedOf({ corpus, texts }: Draft, removed: ReadonlySet<string>): LockedCorpus {
  const documents = texts.filter((text) => !removed.has(text)).map((text) => ({ name: corpus.name, text }));
  const splits = corpus.role === "training" ? splitDocuments(corpus.name, documents) : null;
  const count = (split: Split) => splits?.filter((one) => one === split).length ?? 0;
  return {
    ...corpus,
    sha256: corpusHash(documents),
    documents: documents.length,
    splits: splits && { train: count("train"), validation: count("validation"), test: count("test") },
    removed: [...removed].map(documentHash).sort(),
    lengths: documents.map(({ text }) => text.length),
  };
}

/** JSON in which lists of numbers and hashes fill lines. */
function written(lock: CorpusLock): string {
  const text = JSON.stringify(lock, null, 2);
  const filled = text.replaceAll(/\[\n((?:\s*(?:\d+|"[0-9a-f]{16}"),?\n)+)\s*\]/g, (_, items: string) => {
    return `[${items.trim().replaceAll(/\s*\n\s*/g, " ")}]`;
  });
  return `${filled}\n`;
}
