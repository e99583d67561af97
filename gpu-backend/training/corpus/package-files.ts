/** Reads the files of an unpacked package as text. */
import { execFile } from "node:child_process";
import { glob, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { convert } from "html-to-text";

const run = promisify(execFile);

export interface FoundFile {
  path: string;
  text: string;
}

/** The files that match a glob pattern, in path order. Unpacks gzip, and decodes HTML as its head says. Throws an Error if none matches. */
export async function filesOf(folder: string, pattern: string): Promise<FoundFile[]> {
  const paths: string[] = [];
  for await (const path of glob(pattern, { cwd: folder })) {
    if ((await stat(join(folder, path))).isFile()) paths.push(path);
  }
  if (paths.length === 0) throw new Error(`no ${pattern} in ${folder}`);
  return Promise.all(
    paths.sort().map(async (path) => {
      const bytes = await readFile(join(folder, path));
      const isGzipped = bytes[0] === 0x1f && bytes[1] === 0x8b;
      const content = isGzipped ? gunzipSync(bytes) : bytes;
      return { path, text: new TextDecoder(charsetOf(path, content)).decode(content) };
    }),
  );
}

/** The encoding that an HTML page declares in its head; UTF-8 for any other file. */
function charsetOf(path: string, content: Uint8Array): string {
  const head = path.includes(".html") ? Buffer.from(content.subarray(0, 1024)).toString("latin1") : "";
  return /charset="?([\w-]+)/i.exec(head)?.[1] ?? "utf-8";
}

/** HTML pages as text, without the lines that many of them share. */
export function pagesOf(files: readonly FoundFile[]): string[] {
  const selectors = [
    { selector: "a", options: { ignoreHref: true } },
    { selector: "img", format: "skip" },
    { selector: "hr", format: "skip" },
    ...["dt", "dd"].map((selector) => ({ selector, format: "block" })),
    ...["h1", "h2", "h3", "h4"].map((selector) => ({ selector, options: { uppercase: false } })),
  ];
  return withoutBoilerplate(files.map(({ text }) => convert(text, { wordwrap: 100, selectors })));
}

/** A line is navigation if it is on more than this share of the pages, and on more pages than this number. */
const commonShare = 0.15;
const commonPages = 4;

/** Removes the lines that many pages have, then pages without any other line. Several blank lines become one. */
export function withoutBoilerplate(pages: readonly string[]): string[] {
  const pagesWith = new Map<string, number>();
  for (const text of pages) {
    for (const line of new Set(text.split("\n").map(withSingleSpaces)))
      pagesWith.set(line, (pagesWith.get(line) ?? 0) + 1);
  }
  const threshold = Math.max(commonPages, commonShare * pages.length);
  const common = (line: string) => line !== "" && pagesWith.get(line)! > threshold;
  return pages.flatMap((text) => {
    const lines = text.split("\n").filter((line) => !common(withSingleSpaces(line)));
    const left = lines
      .map((line) => line.trimEnd())
      .join("\n")
      .replace(/\n{3,}/g, "\n\n")
      .trim();
    return left ? [`${left}\n`] : [];
  });
}

function withSingleSpaces(line: string): string {
  return line.replace(/\s+/g, " ").trim();
}

/** The standard output of a program. Throws an Error if it fails. */
export async function outputOf(program: string, options: string[], cwd?: string): Promise<string> {
  return (await run(program, options, { cwd, maxBuffer: 1 << 28 })).stdout;
}
