/**
 * Writes what the edge serves to browsers where wrangler takes static assets from: the playground (edge/page) as one document,
 * with its styles and scripts inside, so that its policy can name what it runs; the API's document, and what draws it.
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { writeIfDifferent } from "../gpu-backend/files.ts";
import { openApiDocument } from "./openapi/document.ts";

const root = path.dirname(import.meta.dirname);
const source = path.join(root, "edge/page");

/** Writes what differs, and returns the names of what was written. */
export async function stagePages(target: string = path.join(root, "edge/public")): Promise<string[]> {
  const { version } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8")) as { version: string };
  const renderer = path.dirname(createRequire(import.meta.url).resolve("swagger-ui-dist/package.json"));
  const files: Record<string, string | Buffer> = {
    "openapi.json": `${JSON.stringify(openApiDocument(version))}\n`,
    "docs/swagger-ui.css": await readFile(path.join(renderer, "swagger-ui.css")),
    "docs/swagger-ui-bundle.js": await readFile(path.join(renderer, "swagger-ui-bundle.js")),
    "index.html": await buildPage(),
  };
  const written: string[] = [];
  for (const [name, wanted] of Object.entries(files)) {
    if (await writeIfDifferent(path.join(target, name), Buffer.from(wanted))) written.push(name);
  }
  return written;
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
