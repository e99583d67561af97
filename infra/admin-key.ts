/** The keys that a start makes: kept in the state folder, for its user alone. */
import { randomBytes } from "node:crypto";
import path from "node:path";
import { writeWhole } from "../gpu-backend/files.ts";
import { adminKeyPattern } from "../shared/contracts/tenants.ts";
import { readPrivate } from "./local-run.ts";

/** A key that nobody can guess. */
export function newKey(): string {
  return `sk-chameleon-${randomBytes(32).toString("base64url")}`;
}

/** The admin key, and the API key of an edge that other machines can reach: their files. */
export const keyFiles = { admin: "admin-key", api: "api-key" } as const;

/** Makes the key at its first use. Throws an Error if another user could have written the file, or could read it, or if it holds something else. */
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
