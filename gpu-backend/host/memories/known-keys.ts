/** Finds a document's keys in other memories of the tenant. */
import type { SealedRecords } from "../../tenant-files/sealed-records.ts";
import type { TenantStore } from "../../tenant-files/tenant-store.ts";
import { type EncodedDocument, windowsOf } from "./document-windows.ts";

const [hashBytes, countBytes] = [32, 4];
const firstWindow = 2;

export function memoryLabel(manifestHash: string, documents: readonly Pick<EncodedDocument, "hash" | "ids">[]): Buffer {
  const entries = documents.map(({ hash, ids }) => {
    const count = Buffer.alloc(countBytes);
    count.writeUInt32LE(ids.length);
    return Buffer.concat([hash, count]);
  });
  return Buffer.concat([Buffer.from(manifestHash, "hex"), ...entries]);
}

/** Returns null if the keys are unknown. */
export type KnownKeys = (document: EncodedDocument, part: number) => Promise<Uint8Array | null>;

export async function findKnownKeys(
  store: TenantStore,
  { tenant, hash, label, contextTokens }: { tenant: string; hash: string; label: Buffer; contextTokens: number },
): Promise<KnownKeys> {
  const wanted = new Set(documentsIn(label).map((document) => document.hash));
  const files = (await store.list(tenant)).filter((file) => file.hash !== hash);
  /** By document hash: a memory's file, and the number of the document's first record in that file. */
  const known = new Map<string, { file: (typeof files)[number]; place: number }>();
  // Finished files come first, because they have all keys.
  for (const file of files.toSorted((a, b) => a.suffix.length - b.suffix.length)) {
    const other = await store.files.label(tenant, file.hash, file.suffix);
    if (!other?.subarray(0, hashBytes).equals(label.subarray(0, hashBytes))) continue;
    const documents = documentsIn(other);
    const lengths = documents.map(({ tokens }) => tokens);
    for (const [place, { document, part }] of windowsOf(lengths, contextTokens).entries()) {
      const found = documents[document].hash;
      if (part > 0 || !wanted.has(found) || known.has(found)) continue;
      known.set(found, { file, place: firstWindow + place });
    }
  }
  let open: { file: (typeof files)[number]; records: SealedRecords | null } | null = null;
  return async (document, part) => {
    const found = known.get(Buffer.from(document.hash).toString("hex"));
    if (!found) return null;
    const { file, place } = found;
    if (open?.file !== file) open = { file, records: await store.files.records(tenant, file.hash, file.suffix) };
    return open.records?.at(place + part) ?? null;
  };
}

function documentsIn(label: Buffer): { hash: string; tokens: number }[] {
  const documents: { hash: string; tokens: number }[] = [];
  for (let at = hashBytes; at + hashBytes + countBytes <= label.length; at += hashBytes + countBytes) {
    const tokens = label.readUInt32LE(at + hashBytes);
    documents.push({ hash: label.toString("hex", at, at + hashBytes), tokens });
  }
  return documents;
}
