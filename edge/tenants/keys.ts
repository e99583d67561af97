/** API keys. Only their SHA-256 is stored: who reads the configuration cannot use what is in it. */
import { sha256Hex } from "../sha256.ts";

export interface TenantKey {
  /** SHA-256 of the key, lower-case hex. */
  hash: string;
  tenant: string;
}

export interface KeyStore {
  /** The tenant of a key, or null. */
  tenantOf(key: string): Promise<string | null>;
}

/** Keys from the configuration. Every stored hash is compared in full, so that timing tells nothing. */
export function createKeyStore(stored: readonly TenantKey[]): KeyStore {
  return {
    async tenantOf(key) {
      const hash = await sha256Hex(new TextEncoder().encode(key));
      let found: string | null = null;
      for (const entry of stored) if (equals(entry.hash, hash)) found = entry.tenant;
      return found;
    },
  };
}

/** Compares two strings of equal length without an early exit. */
function equals(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < b.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}
