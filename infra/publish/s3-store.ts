/** A bucket over the S3 API, which R2 speaks: requests signed with aws4fetch, switches by If-Match. */
import { AwsClient } from "aws4fetch";
import { readAtMost } from "../../shared/artifacts/set-file.ts";
import type { ObjectStore } from "./store.ts";

export interface S3Place {
  /** `https://ACCOUNT.r2.cloudflarestorage.com` */
  endpoint: string;
  bucket: string;
  accessKeyId: string;
  secretAccessKey: string;
}

/** A bucket of R2 by the variables of `environment`; an `endpoint` goes before the account's. Throws an Error that names what is missing. */
export function remoteStore(environment: NodeJS.ProcessEnv, bucket: string | null, endpoint?: string): ObjectStore {
  const { CLOUDFLARE_ACCOUNT_ID: account, AWS_ACCESS_KEY_ID: keyId, AWS_SECRET_ACCESS_KEY: secret } = environment;
  const place = endpoint ?? (account && `https://${account}.r2.cloudflarestorage.com`);
  if (!bucket) throw new Error("wrangler.toml has no bucket ARTIFACTS");
  if (!place) throw new Error("publishing to R2 needs CLOUDFLARE_ACCOUNT_ID, or --endpoint");
  if (!keyId || !secret) throw new Error("publishing to R2 needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
  return s3Store({ endpoint: place, bucket, accessKeyId: keyId, secretAccessKey: secret });
}

export function s3Store({ endpoint, bucket, accessKeyId, secretAccessKey }: S3Place): ObjectStore {
  const client = new AwsClient({ accessKeyId, secretAccessKey, service: "s3", region: "auto", retries: 4 });
  const call = async (name: string, allowed: readonly number[], init: RequestInit = {}) => {
    const url = `${endpoint.replace(/\/+$/, "")}/${bucket}/${name}`;
    const response = await client.fetch(url, init).catch((cause) => {
      throw new Error(`${url} cannot be reached`, { cause });
    });
    if (response.ok || allowed.includes(response.status)) return response;
    const said = /<Message>([^<]*)/.exec(await response.text())?.[1] ?? "no reason given";
    throw new Error(`${init.method ?? "GET"} ${url} was answered ${response.status}: ${said}`);
  };
  const put = (name: string, body: Uint8Array<ArrayBuffer>, allowed: readonly number[], headers = {}) =>
    call(name, allowed, { method: "PUT", body, headers });
  return {
    async get(name, mostBytes) {
      const response = await call(name, [404]);
      if (response.status === 404) return null;
      const etag = response.headers.get("etag");
      if (!etag) throw new Error(`${name} has no etag`);
      return { bytes: await readAtMost(response.body ?? [], mostBytes), etag };
    },
    async put(name, bytes) {
      await put(name, bytes, []);
    },
    async replace(name, bytes, etag, metadata) {
      const condition: Record<string, string> = etag === null ? { "if-none-match": "*" } : { "if-match": etag };
      const named = Object.entries(metadata).map(([key, value]) => [`x-amz-meta-${key}`, value]);
      const response = await put(name, bytes, [409, 412], { ...condition, ...Object.fromEntries(named) });
      return response.ok;
    },
  };
}
