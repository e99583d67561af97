/** Files of an unpacked package. */
import { execFile } from "node:child_process";
import { glob, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { convert } from "html-to-text";
import { withoutBoilerplate } from "./pages.ts";

const run = promisify(execFile);

export interface FoundFile {
  path: string;
  text: string;
}

/** Files in the order of their paths, unpacked where they are gzipped. Throws an Error where there are none. */
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
      return { path, text: (isGzipped ? gunzipSync(bytes) : bytes).toString("utf8") };
    }),
  );
}

/** HTML pages as text, less the lines that many of them share. */
export function pagesOf(files: readonly FoundFile[]): string[] {
  const shown = files.map(({ path, text }) => ({
    name: path,
    text: convert(text, {
      wordwrap: 100,
      selectors: [
        { selector: "a", options: { ignoreHref: true } },
        { selector: "img", format: "skip" },
        { selector: "hr", format: "skip" },
        ...["dt", "dd"].map((selector) => ({ selector, format: "block" })),
        ...["h1", "h2", "h3", "h4"].map((selector) => ({ selector, options: { uppercase: false } })),
      ],
    }),
  }));
  return withoutBoilerplate(shown).map(({ text }) => text);
}

export async function outputOf(program: string, options: string[]): Promise<string> {
  return (await run(program, options, { maxBuffer: 1 << 28 })).stdout;
}
