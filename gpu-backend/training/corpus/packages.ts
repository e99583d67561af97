/** Downloads pinned packages of Debian (apt-get, dpkg-deb) and npm (npm, tar), and unpacks them without installing them. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { outputOf } from "./package-files.ts";

export const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** One version of a package, byte for byte. */
export const pinnedPackage = z.strictObject({
  registry: z.enum(["debian", "npm"]),
  name: z.string(),
  version: z.string(),
  /** Of the .deb or .tgz file. */
  sha256,
  /** The package has a program that prints the text. It differs by architecture, so its own hash is not checked. */
  isTool: z.boolean().optional(),
});
export type PinnedPackage = z.infer<typeof pinnedPackage>;

/**
 * Unpacks a pinned package into `<folder>/<name>` and returns that path. An archive that is already in `folder` is used, so one that
 * its registry no longer has can be put there by hand. Throws an Error if the archive is unavailable or has another hash.
 */
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

/** File name of the archive in `folder`, the same on every architecture. */
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
