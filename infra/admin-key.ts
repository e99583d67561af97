/** Makes and reads the keys of `chameleon start`. Each key is a file in the state folder that only its owner may read. */
import { randomBytes } from "node:crypto";
import path from "node:path";
import { writeWhole } from "../gpu-backend/files.ts";
import { adminKeyPattern } from "../shared/contracts/tenants.ts";
import { readPrivate } from "./local-run.ts";

export function newKey(): string {
  return `sk-chameleon-${randomBytes(32).toString("base64url")}`;
}

/** File names. Only an edge that other machines can reach needs the API key. */
export const keyFiles = { admin: "admin-key", api: "api-key" } as const;

/** Returns the key in the file, or makes one. Throws an Error if other users may access the file, or if the file holds no key. */
export async function keptKey(
  stateFolder: string,
  name: keyof typeof keyFiles,
): Promise<{ key: string; file: string; isNew: boolean }> {
  const file = path.join(stateFolder, keyFiles[name]);
  const found = read(file);
  if (found !== null) return { key: found, file, isNew: false };
  const key = newKey();
  await writeWhole(file, `${key}\n`, { mode: 0o600 });
  return { key, file, isNew: true };
}

function read(file: string): string | null {
  let key: string;
  try {
    key = readPrivate(file).trim();
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") return null;
    throw new Error(`${file} cannot be used: ${message}`, { cause });
  }
  if (adminKeyPattern.test(key)) return key;
  throw new Error(
    `${file} must hold a key of 32 to 512 characters without spaces; remove it, and the next start makes one`,
  );
}
