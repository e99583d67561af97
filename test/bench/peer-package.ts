/** Systems that we compare with are packages in folders of their own, pinned by lock files and installed when first needed. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

export function installPeer(folder: string): void {
  if (existsSync(join(folder, "node_modules/.package-lock.json"))) return;
  process.stderr.write(`installing ${Object.keys(pinsOf(folder)).join(", ")} (once)…\n`);
  const args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  execFileSync("npm", args, { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
}

export function pinsOf(folder: string): Record<string, string> {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).dependencies;
}

/** `M`: type of what we use of the package. */
export async function importInstalled<M>(folder: string, name: string): Promise<M> {
  const entry = createRequire(join(folder, "package.json")).resolve(name);
  return (await import(pathToFileURL(entry).href)) as M;
}
