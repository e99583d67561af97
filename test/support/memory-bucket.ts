/** Buckets as the publisher sees them, in memory or in a folder. Tests may damage what a bucket holds. */
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { type PublishBucket, putFile, switchTo, wrongHash } from "../../edge/artifacts/publish.ts";
import { nullIfMissing } from "../../gpu-backend/files.ts";
import type { ArtifactSet } from "../../infra/publish/artifact-set.ts";

const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest();

abstract class StoredBucket implements PublishBucket {
  /** Of the last write that had metadata. */
  metadata: Record<string, string> = {};
  /** Called before each write. May throw, or return other bytes to store. */
  onWrite: (name: string, bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer> = (_, bytes) => bytes;

  abstract read(name: string): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Stores the bytes without checking their hash. */
  abstract write(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;

  async head(name: string) {
    const bytes = await this.read(name);
    return bytes && { size: bytes.byteLength, checksums: { sha256: Uint8Array.from(digest(bytes)).buffer } };
  }

  async get(name: string) {
    const bytes = await this.read(name);
    if (!bytes) return null;
    const etag = digest(bytes).toString("hex");
    return { ...(await this.head(name))!, etag, arrayBuffer: async () => Uint8Array.from(bytes).buffer };
  }

  async put(...[name, value, options]: Parameters<PublishBucket["put"]>): Promise<unknown> {
    const bytes = this.onWrite(name, new Uint8Array(await new Response(value as never).arrayBuffer()));
    const { sha256, onlyIf, customMetadata } = options;
    if (sha256 !== undefined && digest(bytes).toString("hex") !== sha256) throw new Error(wrongHash);
    if (onlyIf) {
      const found = await this.get(name);
      if (onlyIf.get("if-match") !== (found && `"${found.etag}"`)) return null;
    }
    this.metadata = customMetadata ?? this.metadata;
    await this.write(name, bytes);
    return {};
  }
}

export class MemoryBucket extends StoredBucket {
  readonly objects = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly written: string[] = [];

  override async read(name: string) {
    return this.objects.get(name) ?? null;
  }

  override async write(name: string, bytes: Uint8Array<ArrayBuffer>) {
    this.written.push(name);
    this.objects.set(name, bytes);
  }
}

/** A bucket in a folder, laid out as a local edge keeps it. */
export class FolderBucket extends StoredBucket {
  readonly #folder: string;

  constructor(folder: string) {
    super();
    this.#folder = folder;
  }

  override async read(name: string) {
    const bytes = await readFile(path.join(this.#folder, name)).catch(nullIfMissing);
    return bytes && Uint8Array.from(bytes);
  }

  override async write(name: string, bytes: Uint8Array<ArrayBuffer>) {
    const file = path.join(this.#folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, bytes);
  }
}

export async function publishTo(bucket: PublishBucket, set: ArtifactSet, otherModel = false) {
  for (const { sha256, bytes } of set.files.values()) await putFile(bucket, sha256, new Response(bytes).body!);
  return switchTo(bucket, { manifest: set.manifestHash, otherModel }, 0);
}

export function rollBackIn(bucket: PublishBucket) {
  return switchTo(bucket, { manifest: "previous", otherModel: true }, 0);
}
