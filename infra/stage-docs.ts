/**
 * Puts the API's document and what draws it where wrangler takes static assets from, beside the page docs.html. Run where
 * artifacts are staged.
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { writeIfDifferent } from "../gpu-backend/files.ts";
import { openApiDocument } from "./openapi/document.ts";

const root = path.dirname(import.meta.dirname);

/** Writes what differs, and returns the names of what was written. */
export async function stageDocs(target: string = path.join(root, "edge/public")): Promise<string[]> {
  const { version } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8")) as { version: string };
  const document = `${JSON.stringify(openApiDocument(version))}\n`;
  // Here, because a package has neither: it holds the staged files.
  const renderer = path.dirname(createRequire(import.meta.url).resolve("swagger-ui-dist/package.json"));
  const files: [string, Buffer][] = [["openapi.json", Buffer.from(document)]];
  for (const name of ["swagger-ui.css", "swagger-ui-bundle.js"]) {
    files.push([`docs/${name}`, await readFile(path.join(renderer, name))]);
  }
  const written: string[] = [];
  for (const [name, wanted] of files) if (await writeIfDifferent(path.join(target, name), wanted)) written.push(name);
  return written;
}
