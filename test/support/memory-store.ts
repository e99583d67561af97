/** A bucket in memory, as the publisher and the S3 API see it; a test may harm what is in it, or the way to it. */
import { createHash } from "node:crypto";
import type { ObjectStore } from "../../infra/publish/store.ts";

export class MemoryStore implements ObjectStore {
  readonly objects = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly written: string[] = [];
  /** Of what was replaced last. */
  metadata: Record<string, string> = {};
  /** Bytes of the largest object that was read, as far as it was. */
  largestRead = 0;
  /** Before anything is written; may throw, or change what arrives. */
  onWrite: (name: string, bytes: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer> = (_, bytes) => bytes;

  etagOf(name: string): string | null {
    const bytes = this.objects.get(name);
    return bytes ? `"${createHash("md5").update(bytes).digest("hex")}"` : null;
  }

  async get(name: string, mostBytes: number) {
    const bytes = this.objects.get(name)?.subarray(0, mostBytes + 1);
    this.largestRead = Math.max(this.largestRead, bytes?.byteLength ?? 0);
    return bytes ? { bytes: Uint8Array.from(bytes), etag: this.etagOf(name)! } : null;
  }

  async put(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const arrived = this.onWrite(name, bytes);
    this.written.push(name);
    this.objects.set(name, Uint8Array.from(arrived));
  }

  async replace(
    name: string,
    bytes: Uint8Array<ArrayBuffer>,
    etag: string | null,
    metadata: Record<string, string>,
  ): Promise<boolean> {
    if (this.etagOf(name) !== etag) return false;
    this.metadata = metadata;
    await this.put(name, bytes);
    return true;
  }
}
