/**
 * Counts failed key look-ups by client network: a guess of 256 bits never succeeds, but each one costs a read. Pure; kept
 * per isolate, bounded.
 */
import { setNewest } from "../platform/newest.ts";

/** Failed look-ups per network and window. A program with an outdated key fails once and stops. */
const mostFailures = 30;
const windowMs = 60_000;
const rememberedNetworks = 4096;

interface Failures {
  count: number;
  untilMs: number;
}

export class FailedKeys {
  readonly #failures = new Map<string, Failures>();

  /** Records that a key from `address` was not accepted. */
  failed(address: string, nowMs: number): void {
    const network = networkOf(address);
    const known = this.#failures.get(network);
    if (known && nowMs < known.untilMs) {
      known.count++;
      return;
    }
    setNewest(this.#failures, network, { count: 1, untilMs: nowMs + windowMs }, rememberedNetworks);
  }

  /** Milliseconds until the network of `address` has look-ups left; 0 where it has some now. */
  waitMs(address: string, nowMs: number): number {
    const known = this.#failures.get(networkOf(address));
    return known && known.count >= mostFailures ? Math.max(0, known.untilMs - nowMs) : 0;
  }
}

/**
 * The network one customer controls: an IPv4 address, also where it is written as an IPv4-mapped IPv6 address
 * (`::ffff:192.0.2.1`, RFC 4291 section 2.5.5.2), or the /64 of an IPv6 address. Anything else is its own network.
 */
export function networkOf(address: string): string {
  const groups = ipv6GroupsOf(address);
  if (groups === null) return address;
  const isIpv4Mapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
  if (isIpv4Mapped) return [groups[6] >> 8, groups[6] & 255, groups[7] >> 8, groups[7] & 255].join(".");
  const prefix = groups.slice(0, 4).map((group) => group.toString(16));
  return `${prefix.join(":")}::/64`;
}

/** The eight 16-bit groups of an IPv6 address in any of its text forms (RFC 4291 section 2.2); null for other text. */
function ipv6GroupsOf(address: string): number[] | null {
  const ipv4 = /^(.*:)(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(address.replace(/%.*$/, ""));
  const hex = (high: string, low: string) => (Number(high) * 256 + Number(low)).toString(16);
  const text = ipv4 ? `${ipv4[1]}${hex(ipv4[2], ipv4[3])}:${hex(ipv4[4], ipv4[5])}` : address.replace(/%.*$/, "");
  const halves = text.split("::");
  if (!text.includes(":") || halves.length > 2) return null;
  const [head, tail = []] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  const groups = [...head, ...Array<string>(missing).fill("0"), ...tail];
  return groups.every((group) => /^[0-9a-f]{1,4}$/i.test(group))
    ? groups.map((group) => Number.parseInt(group, 16))
    : null;
}
