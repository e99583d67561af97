/**
 * Writes text of Debian's packages as folders of documents, one corpus each: what the embedded adapters are trained on,
 * besides text of npm packages (default-corpora.ts) and what MODEL_CARD.md names. `npm run corpora -- FOLDER`, after
 *
 *   apt-get install w3m dictzip perl perl-doc postgresql-doc-17 python3.13-doc bible-kjv-text sqlite3-doc nodejs-doc apache2-doc dict-devil
 */
import { execFile } from "node:child_process";
import { glob, mkdir, readFile, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { createCommand, runCommand } from "../../command-line.ts";
import { type Document, sectionsOf } from "./documents.ts";
import { withoutBoilerplate } from "./pages.ts";

const run = promisify(execFile);
const manuals = "/usr/share/doc";
const perlPods = "/usr/share/perl/5.40/pod";
/** Shorter pages are menus and redirections. */
const minimumCharacters = 400;
/** Of a work that is one file. */
const sectionCharacters = 6000;
const atOnce = 4;

const corpora: Record<string, () => Promise<Document[]>> = {
  "king-james-bible": bible,
  "postgresql-manual": () => pages("postgresql-doc-17/html"),
  "perl-manual": perl,
  "python-manual": () => pages("python3.13/html", (path) => !/genindex|\/_|search|changelog/.test(path)),
  "sqlite-manual": () => pages("sqlite3"),
  "node-manual": node,
  "httpd-manual-french": () => httpd("fr"),
  "httpd-manual-spanish": () => httpd("es"),
  "httpd-manual-turkish": () => httpd("tr"),
  "devils-dictionary": dictionary,
};

async function bible(): Promise<Document[]> {
  const verses = await output("bible", ["-f", "gen1:1-rev22:21"]);
  const books = new Map<string, string[]>();
  for (const line of verses.split("\n")) {
    const [, book, verse, text] = /^(\d?[A-Za-z]+)(\d+:\d+) +(.*)$/.exec(line) ?? [];
    if (!book) continue;
    const lines = books.get(book) ?? [];
    books.set(book, lines);
    lines.push(`${verse} ${text}`);
  }
  return [...books].map(([name, lines]) => ({ name, text: `${lines.join("\n")}\n` }));
}

/** All but histories of changes, the table of contents and translations. */
async function perl(): Promise<Document[]> {
  const pods = (await filesOf(perlPods, "*.pod")).filter((path) => !/delta|perl(toc|cn|jp|ko|tw)\./.test(path));
  return eachOf(pods, async (path) => ({ name: path, text: await output("pod2text", ["-u", path]) }));
}

async function node(): Promise<Document[]> {
  const sources = await filesOf(join(manuals, "nodejs/api"), "*.md.gz");
  return eachOf(sources, async (name) => ({ name, text: gunzipSync(await readFile(name)).toString("utf8") }));
}

/** Pages that are there in a language; the others repeat the English ones. */
function httpd(language: string): Promise<Document[]> {
  return pages(`apache2-doc/manual/${language}`, (_, html) => html.slice(0, 600).includes(`lang="${language}"`));
}

async function dictionary(): Promise<Document[]> {
  const text = await output("dictzip", ["-d", "-c", "/usr/share/dictd/devil.dict.dz"]);
  return sectionsOf(text, sectionCharacters).map((section, i) => ({ name: String(i), text: section }));
}

/** HTML pages as a text browser shows them, less what they have in common. */
async function pages(folder: string, wanted: (path: string, html: string) => boolean = () => true) {
  const root = join(manuals, folder);
  const shown = await eachOf(await filesOf(root, "**/*.html"), async (path): Promise<Document[]> => {
    if (!wanted(path, await readFile(path, "utf8"))) return [];
    const text = await output("w3m", ["-dump", "-cols", "100", "-T", "text/html", "-I", "utf-8", "-O", "utf-8", path]);
    return text.length < minimumCharacters ? [] : [{ name: relative(root, path), text }];
  });
  return withoutBoilerplate(shown.flat());
}

async function filesOf(root: string, pattern: string): Promise<string[]> {
  const paths = (await Array.fromAsync(glob(pattern, { cwd: root }))).sort().map((path) => join(root, path));
  if (paths.length === 0) throw new Error(`no ${pattern} in ${root}: is its package installed?`);
  return paths;
}

async function output(program: string, options: string[]): Promise<string> {
  const { stdout } = await run(program, options, { maxBuffer: 1 << 28 });
  return stdout;
}

/** Maps a few at a time; the order is kept. */
async function eachOf<T, U>(items: readonly T[], map: (item: T) => Promise<U>): Promise<U[]> {
  const results = new Array<U>(items.length);
  const queue = items.entries();
  const work = async () => {
    for (const [i, item] of queue) results[i] = await map(item);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return results;
}

async function writeCorpora(out: string): Promise<void> {
  for (const [corpus, documentsOf] of Object.entries(corpora)) {
    const documents = (await documentsOf()).filter(({ text }) => text.length >= minimumCharacters);
    await mkdir(join(out, corpus), { recursive: true });
    for (const [i, { text }] of documents.entries()) {
      await writeFile(join(out, corpus, `${String(i).padStart(4, "0")}.txt`), text);
    }
    const characters = documents.reduce((sum, { text }) => sum + text.length, 0);
    console.log(`${corpus}: ${documents.length} documents, ${characters} characters`);
  }
}

await runCommand(
  createCommand("corpora", "Write text of Debian's packages as corpora to train on", ["chameleon corpora ./corpora"])
    .argument("<folder>", "where the corpora go, a folder each")
    .action(writeCorpora),
);
