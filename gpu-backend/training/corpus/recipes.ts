/** Recipes make corpora from packages. Corpora to measure were chosen before any scoring, and no score changed a recipe. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { inflateSync } from "node:zlib";
import { sectionsOf } from "./documents.ts";
import { type FoundFile, filesOf, outputOf, pagesOf } from "./packages.ts";

interface Recipe {
  /** One glob pattern for each package, in the lock's order. */
  files: readonly string[];
  without?: RegExp;
  /** Makes documents. By default, each file is a document. */
  as?: (files: FoundFile[]) => string[];
}

/** `folders` are folders of the unpacked packages. */
type Program = (...folders: string[]) => Promise<string[]>;

const sections = (characters: number) => (files: FoundFile[]) =>
  files.flatMap(({ text }) => sectionsOf(text, characters));
const rubyGem = "usr/share/rubygems-integration/all/gems/*/lib/**/*.rb";
const fortunes = (files: FoundFile[]) => files.flatMap(({ text }) => text.split(/^%$/m));
/** Leaves out untranslated pages, because they repeat the English manual. */
const translated = (code: string): Recipe => ({
  files: [`usr/share/doc/apache2-doc/manual/${code}/**/*.html`],
  as: (files) => pagesOf(files.filter(({ text }) => text.slice(0, 600).includes(`lang="${code}"`))),
});

export const recipes: Record<string, Recipe | Program> = {
  // Corpora with the roles "training" and "left-out". gsm8k is committed and needs no recipe.
  "king-james-bible": bible,
  "postgresql-manual": { files: ["usr/share/doc/postgresql-doc-17/html/*.html"], as: pagesOf },
  // Leaves out change histories, the table of contents and translations.
  "perl-manual": { files: ["usr/share/perl/*/pod/*.pod"], without: /delta|perl(toc|cn|jp|ko|tw)\./ },
  "sqlite-manual": { files: ["usr/share/doc/sqlite3/**/*.html"], as: pagesOf },
  "node-manual": { files: ["usr/share/doc/nodejs/api/*.md.gz"] },
  "httpd-manual-french": translated("fr"),
  "httpd-manual-spanish": translated("es"),
  "httpd-manual-turkish": translated("tr"),
  "httpd-manual-japanese": translated("ja"),
  "httpd-manual-korean": translated("ko"),
  "devils-dictionary": { files: ["usr/share/dictd/devil.dict.dz"], as: sections(6000) },
  austen,
  "python-manual": {
    ...{ files: ["usr/share/doc/python3.13/html/**/*.html"], without: /genindex|\/_|search|changelog/, as: pagesOf },
  },
  "jargon-file": { files: ["usr/share/dictd/jargon.dict.dz"], as: sections(6000) },
  "moby-dick": { files: ["package/data/chapter_*.txt"] },
  "state-of-the-union": { files: ["package/data/*.txt"] },
  "package-docs": { files: ["package/docs/**/*.md", "package/docs/**/*.md", "package/docs/content/**/*.md"] },
  "go-programs": { files: ["usr/share/go-1.24/src/**/*.go"], without: /_test\.go$|\/testdata\/|\/vendor\// },
  "python-programs": { files: ["usr/lib/python3/dist-packages/sympy/**/*.py"], without: /\/tests?\// },
  "cpp-headers": { files: ["usr/include/eigen3/**/*.h"] },
  "javascript-programs": { files: ["package/src/**/*.js"] },
  "ruby-programs": { files: [rubyGem, rubyGem] },

  // Corpora with the roles "new" and "development".
  brown: { files: ["package/c???"], as: (files) => files.map(({ text }) => withoutTags(text)) },
  "anarchist-faq": { files: ["usr/share/doc/anarchism/markdown/*"] },
  // Leaves out `definitions`, which quotes The Devil's Dictionary, another corpus.
  fortunes: { files: ["usr/share/games/fortunes/*.u8"], without: /ascii-art|definitions/, as: fortunes },
  "german-fortunes": { files: ["usr/share/games/fortunes/de/*.u8"], without: /asciiart/, as: fortunes },
  "webster-dictionary": { files: ["usr/share/dictd/gcide.dict.dz"], as: sections(4000) },
  // Leaves out licences that also occur in the training text.
  licences: {
    files: ["package/licenses/*.json"],
    without: /\/(MIT|ISC|BSD|0BSD|Apache|PostgreSQL|Artistic|PSF|Python)/,
    as: (files) => files.map(({ text }) => (JSON.parse(text) as { licenseText: string }).licenseText),
  },
  "data-tables": { files: ["package/data/*.{csv,json,tsv}"] },
  "dungeon-crawl": { files: ["usr/share/crawl/dat/{descript,database}/*.txt"], as: sections(4000) },
  "vim-help": { files: ["usr/share/vim/vim91/doc/*.txt"] },
  "rust-programs": { files: ["usr/src/rustc-*/library/{std,core,alloc}/src/**/*.rs"], without: /\/tests?[/.]/ },
  "linux-documents": { files: ["usr/share/doc/linux-doc-6.12/html/_sources/**/*.txt"] },
  "erlang-manual": { files: ["usr/share/doc/erlang-doc/html/{doc/system,lib/*/doc/html}/*.html"], as: pagesOf },
  "prolog-manual": { files: ["usr/share/swi-prolog/doc/{Manual,packages}/*.html"], as: pagesOf },
  "cpp-reference": { files: ["usr/share/cppreference/doc/html/en/**/*.html"], as: pagesOf },
  "maxima-manual": { files: ["usr/share/doc/maxima-doc/html/*.html"], as: pagesOf },
  "finnish-manual": { files: ["usr/share/doc/aptitude/html/fi/*.html"], as: pagesOf },
  "czech-manual": { files: ["usr/share/doc/aptitude/html/cs/*.html"], as: pagesOf },
  acronyms: { files: ["usr/share/dictd/vera.dict.dz"], as: sections(4000) },
};

export async function documentTexts(name: string, folders: readonly string[]): Promise<string[]> {
  const recipe = recipes[name];
  if (typeof recipe === "function") return recipe(...folders);
  const { files: patterns, without, as = (files) => files.map(({ text }) => text) } = recipe;
  const files: FoundFile[] = [];
  for (const [i, pattern] of patterns.entries()) files.push(...(await filesOf(folders[i], pattern)));
  return as(files.filter(({ path }) => !without?.test(path)));
}

/** The first package's program prints the second package's data file. */
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

async function austen(folder: string): Promise<string[]> {
  const database = await readFile(join(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"));
  return novelsOf(database).flatMap((lines) => chaptersOf(lines));
}

/**
 * The character vectors of a lazy-load database of R. Each record is a size (4 bytes) and a zlib stream of R's XDR serialisation, in
 * which a string is a 4-byte header whose last byte is 9, a 4-byte length, and the bytes.
 */
function novelsOf(database: Uint8Array): string[][] {
  const novels: string[][] = [];
  for (let at = 0; at < database.length; ) {
    // Node's types lack this result of inflateSync.
    type Inflated = { buffer: Buffer; engine: { bytesWritten: number } };
    const { buffer, engine } = inflateSync(database.subarray(at + 4), { info: true }) as unknown as Inflated;
    at += 4 + engine.bytesWritten;
    novels.push(stringsOf(buffer));
  }
  return novels;
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

function chaptersOf(lines: readonly string[]): string[] {
  const chapters: string[][] = [[]];
  for (const line of lines) {
    if (/^ *chapter [ivxlc\d]+/i.test(line)) chapters.push([]);
    chapters[chapters.length - 1].push(line);
  }
  return chapters.map((chapter) => `${chapter.join("\n").trim()}\n`);
}

/** Removes part-of-speech tags and restores normal spaces around punctuation. */
function withoutTags(tagged: string): string {
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
