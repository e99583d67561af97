/** Systems that we compare with live in package folders of their own, pinned by lock files and installed when first needed. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** Installs the folder's packages where they are missing. Throws an Error when npm fails. */
export function installPeer(folder: string): void {
  if (existsSync(join(folder, "node_modules/.package-lock.json"))) return;
  process.stderr.write(`installing ${Object.keys(pinsOf(folder)).join(", ")} (once)…\n`);
  const args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  execFileSync("npm", args, { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
}

/** Package → pinned version. */
export function pinsOf(folder: string): Record<string, string> {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).dependencies;
}

/** Imports a package from the folder's own node_modules; `M` is the type of what we use of it. */
export async function importInstalled<M>(folder: string, name: string): Promise<M> {
  const entry = createRequire(join(folder, "package.json")).resolve(name);
  return (await import(pathToFileURL(entry).href)) as M;
}
