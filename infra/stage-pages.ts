/**
 * Writes the static assets for browsers: the playground (edge/page) as one HTML file, the OpenAPI document, and Swagger UI. Styles and
 * scripts are inlined, so that the content security policy can list their hashes.
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { writeIfDifferent } from "../gpu-backend/files.ts";
import { openApiDocument } from "./openapi/document.ts";

const root = path.dirname(import.meta.dirname);
const source = path.join(root, "edge/page");

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

/** Throws an Error that names the place in the source that cannot be built. */
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
  // Functions, because `$` has a meaning in a replacement string.
  return html
    .replace("<style></style>", () => `<style>${textOf("style.css")}</style>`)
    .replace('<script type="module"></script>', () => `<script type="module">${textOf("main.js")}</script>`);
}
