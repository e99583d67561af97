/** `host`: a name or an address. An IPv6 address may have the brackets of a URL. */
export function isLoopback(host: string): boolean {
  return /^(localhost|::1|\[::1\]|127(\.\d{1,3}){3})$/.test(host);
}
