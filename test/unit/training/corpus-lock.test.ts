/** The corpus lock: what it records, and that other bytes than the recorded ones are refused. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { fetchCorpora, textsOf } from "../../../gpu-backend/training/corpus/fetch-corpora.ts";
import { lockedSources, readLock } from "../../../gpu-backend/training/corpus/lock.ts";
import { unpackPinned } from "../../../gpu-backend/training/corpus/packages.ts";
import { corpusHash, readCorpus } from "../../../gpu-backend/training/corpus/read-corpus.ts";
import { recipes } from "../../../gpu-backend/training/corpus/recipes.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const progress = { stage() {}, advance() {}, note() {}, end() {} };

test("every corpus of the lock has a recipe with a pattern for each package, and documents enough to hold some out", async () => {
  const { lock, hash } = await readLock();
  expect(hash).toMatch(/^[0-9a-f]{64}$/);
  const ofPackages = lock.corpora.filter(({ packages }) => packages.length > 0);
  expect(ofPackages.map(({ name }) => name)).toEqual(Object.keys(recipes));
  for (const { name, packages } of ofPackages) {
    const recipe = recipes[name];
    expect(typeof recipe === "function" ? recipe.length : recipe.files.length, name).toBe(packages.length);
  }
  for (const { documents } of lock.corpora) expect(documents).toBeGreaterThanOrEqual(20);
});

test("the committed corpus is the locked one", async () => {
  const { lock } = await readLock();
  const locked = lock.corpora.find(({ name }) => name === "gsm8k")!;
  expect(corpusHash(await textsOf(locked, []))).toBe(locked.sha256);
});

test("a corpus of other bytes than locked is refused by name, a missing one says what to run", async () => {
  const folder = temporaryFolder();
  const { lock } = await readLock();
  const brown = lock.corpora.filter(({ name }) => name === "brown");
  const [source] = lockedSources(brown, folder);
  await expect(readCorpus(source)).rejects.toThrow(`brown is not in ${folder}: run npm run corpora -- ${folder}`);
  await writeFile(source.path, '{"text":"The Fulton County Grand Jury said"}\n');
  await expect(readCorpus(source)).rejects.toThrow(/brown has SHA-256 [0-9a-f]{64}, the lock/);
});

test("a committed corpus is fetched without a package, and damage to it is repaired", async () => {
  const folder = temporaryFolder();
  const { lock } = await readLock();
  const corpora = lock.corpora.filter(({ packages }) => packages.length === 0);
  await writeFile(join(folder, "gsm8k.jsonl"), '{"text":"something else"}\n');
  await fetchCorpora(folder, corpora, progress);
  const [source] = lockedSources(corpora, folder);
  expect((await readCorpus(source)).documents).toHaveLength(corpora[0].documents);
  const lying = corpora.map((corpus) => ({ ...corpus, sha256: "0".repeat(64) }));
  await expect(fetchCorpora(folder, lying, progress)).rejects.toThrow("gsm8k has SHA-256");
});

test("an archive that was put there by hand is used, and refused where its bytes are others", async () => {
  const folder = temporaryFolder();
  await writeFile(join(folder, "dict-x_1+2.deb"), "not the archive");
  const pinned = { registry: "debian", name: "dict-x", version: "1:2", sha256: "0".repeat(64) } as const;
  await expect(unpackPinned(pinned, folder)).rejects.toThrow(
    /dict-x_1\+2\.deb has SHA-256 [0-9a-f]{64}; the corpus lock/,
  );
});
