import { sha256Hex } from "../bytes.ts";
import type { Documents } from "./inference.ts";

/** The hash covers the tenant, so that two tenants' memories of equal documents have different names. */
export async function memoryHash(tenant: string, manifestHash: string, documents: Documents): Promise<string> {
  const encoder = new TextEncoder();
  const fields = [tenant, manifestHash, ...documents.flatMap(({ name, text }) => [name, text])].map((field) =>
    encoder.encode(field),
  );
  const bytes = new Uint8Array(fields.reduce((sum, field) => sum + 4 + field.length, 0));
  let at = 0;
  for (const field of fields) {
    new DataView(bytes.buffer).setUint32(at, field.length, true);
    bytes.set(field, at + 4);
    at += 4 + field.length;
  }
  return sha256Hex(bytes);
}
