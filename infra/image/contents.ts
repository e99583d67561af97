/** What an image's files are, and whether they may be there. Not here: building them (build.ts). */
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import path from "node:path";

export interface Contents {
  /** Bytes of the application and its packages, of Node, and of the system below both. */
  bytes: { app: number; node: number; system: number };
  /** Files that must not be there, and why. */
  faults: string[];
}

/** Programs that build, install or fetch: whoever breaks in must not find them. */
const buildTools =
  /^(cc|c\+\+|gcc|g\+\+|clang|make|cmake|ld|as|python3?|git|curl|wget|npm|npx|yarn|yarnpkg|pnpm|corepack)$/;
/** Packages that build, test or serve the edge. */
const buildPackages =
  /^(esbuild|miniflare|playwright-core|sharp|typescript|vitest|workerd|wrangler|@biomejs|@cloudflare|@types)$/;
/** ELF's numbers of the machines. */
const machines = { amd64: 62, arm64: 183 };

export function inspect(root: string, architecture: keyof typeof machines): Contents {
  const contents: Contents = { bytes: { app: 0, node: 0, system: 0 }, faults: [] };
  for (const file of filesBelow(root)) {
    const inRoot = file.slice(root.length);
    const bytes = statSync(file).size;
    const owner = inRoot.startsWith("/app/") ? "app" : inRoot === "/usr/local/bin/node" ? "node" : "system";
    contents.bytes[owner] += bytes;
    const fault = faultOf(file, inRoot, machines[architecture]);
    if (fault) contents.faults.push(`${inRoot}: ${fault}`);
  }
  return contents;
}

function faultOf(file: string, inRoot: string, machine: number): string | null {
  const folder = path.dirname(inRoot);
  if (/\/s?bin$/.test(folder) && buildTools.test(path.basename(file))) return "a build tool";
  const name = /\/node_modules\/([^/]+)\/[^/]*$/.exec(inRoot)?.[1];
  if (name && buildPackages.test(name)) return "a package for building";
  if (inRoot.startsWith("/app/gpu-backend/training/")) return "training, which is no part of serving";
  const head = headOf(file);
  const magic = head.toString("hex", 0, 4);
  if (magic === "7f454c46") return head.readUInt16LE(18) === machine ? null : "a library of another processor";
  if (["cffaedfe", "cefaedfe", "cafebabe"].includes(magic)) return "a library of macOS";
  return head.toString("latin1", 0, 2) === "MZ" ? "a library of Windows" : null;
}

function headOf(file: string): Buffer {
  const head = Buffer.alloc(20);
  const descriptor = openSync(file, "r");
  try {
    readSync(descriptor, head);
    return head;
  } finally {
    closeSync(descriptor);
  }
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) return filesBelow(file);
    return entry.isFile() ? [file] : [];
  });
}
