/** What a recipe for a corpus is, and how files of an unpacked package become documents. */
import { execFile } from "node:child_process";
import { glob, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { convert } from "html-to-text";
import type { PackageSource } from "./packages.ts";
import { withoutBoilerplate } from "./pages.ts";

const run = promisify(execFile);

/** How one corpus is made from packages. */
export interface Recipe {
  /**
   * training: adapters are trained on it. new: neither base, adapters nor calibration may see it. base: part of what the
   * embedded base was trained on, to measure overlap with.
   */
  role: "training" | "new" | "base";
  what: string;
  /** SPDX where there is one. */
  licence: string;
  /** Empty: the text is committed beside the lock, as NAME.jsonl. */
  packages: readonly PackageSource[];
  /** Texts of the documents in the folders that the packages were unpacked into. */
  documentsOf(...folders: string[]): Promise<string[]>;
}

export const debian = (name: string): PackageSource => ({ registry: "debian", name });
export const npm = (name: string): PackageSource => ({ registry: "npm", name });

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

export async function textsOf(folder: string, pattern: string): Promise<string[]> {
  return (await filesOf(folder, pattern)).map(({ text }) => text);
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
