/**
 * Builds the page, edge/page, into the one document that the edge serves: styles and scripts inside it, so that it needs no
 * other request and its policy can name what it runs. Run where artifacts are staged.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { writeIfDifferent } from "../gpu-backend/files.ts";

const root = path.dirname(import.meta.dirname);
const source = path.join(root, "edge/page");

/** Writes what differs, and returns the names of what was written. A package without the source brings the page built. */
export async function stagePage(target: string = path.join(root, "edge/public")): Promise<string[]> {
  if (!existsSync(source)) return [];
  const isWritten = await writeIfDifferent(path.join(target, "index.html"), Buffer.from(await buildPage()));
  return isWritten ? ["index.html"] : [];
}

/** The page as one document. Throws an Error with the place in the source where that cannot be built. */
export async function buildPage(): Promise<string> {
  const { buildSync } = await import("esbuild");
  const { outputFiles } = buildSync({
    entryPoints: [path.join(source, "main.ts"), path.join(source, "style.css")],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2024",
    charset: "utf8",
    write: false,
    outdir: root,
    logLevel: "silent",
  });
  const textOf = (name: string) => outputFiles.find((file) => path.basename(file.path) === name)!.text.trim();
  const html = await readFile(path.join(source, "index.html"), "utf8");
  // Functions, as a replacement text would give its dollar signs a meaning.
  return html
    .replace("<style></style>", () => `<style>${textOf("style.css")}</style>`)
    .replace('<script type="module"></script>', () => `<script type="module">${textOf("main.js")}</script>`);
}
