/**
 * Addresses of backends: `URL` or `REGION=URL`, separated by commas. A URL without `{name}` is one process.
 * `http://{name}.backends.svc:8788` reaches the process `pod-0` at `http://pod-0.backends.svc:8788`, and any process at
 * `http://backends.svc:8788`. `{name}` may also be a segment of the path. After `#`, only the header `nameHeader` selects the process.
 */
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";
import { type Region, regions, regionsOf } from "../platform/region.ts";

export interface BackendAddress {
  /** Without a slash at the end. No two addresses have the same URL. */
  url: string;
  /** Region of the address's processes; null: near to every region. */
  region: Region | null;
}

const placeholder = "{name}";
const form = `must be http(s) URLs, each alone or after a region (${regions.join(" ")}) and "=", separated by commas`;

/** Throws an Error that names the environment variable `variable` if the text is invalid. */
export function parseAddresses(text: string, variable: string): BackendAddress[] {
  const addresses = text.split(",").map((entry) => {
    const [, prefix, rest] = /^\s*(?:([a-z]+)=)?(.*?)\/*\s*$/s.exec(entry)!;
    const region = regions.find((known) => known === prefix) ?? null;
    const isRegion = prefix === undefined || region !== null;
    if (!isRegion || !isHttp(urlOf(rest, null)) || !isHttp(urlOf(rest, "name"))) {
      throw new Error(`${variable} holds ${JSON.stringify(entry.trim())}; it ${form}`);
    }
    return { url: rest, region };
  });
  const urls = addresses.map(({ url }) => url);
  const duplicate = urls.find((url, i) => urls.indexOf(url) !== i);
  if (duplicate !== undefined) throw new Error(`${variable} holds ${JSON.stringify(duplicate)} twice`);
  return addresses;
}

export function addressesIn(jurisdiction: Jurisdiction | null, addresses: readonly BackendAddress[]): BackendAddress[] {
  return addresses.filter(
    ({ region }) => jurisdiction === null || (region !== null && regionsOf[jurisdiction].includes(region)),
  );
}

/** `name` null: a URL that leads to any of the address's processes. */
export function urlOf(address: string, name: string | null): string {
  const url = address.replace(/\/*#\{name\}$/, "");
  if (name !== null) return url.replace(placeholder, name);
  return url.replace("://{name}.", "://").replace(/(?<=[^/])\/\{name\}(?=\/|$)/, "");
}

export function hasProcesses(address: string): boolean {
  return address.includes(placeholder);
}

function isHttp(url: string): boolean {
  return /^https?:$/.test(URL.parse(url)?.protocol ?? "") && !/[{}]/.test(url);
}
