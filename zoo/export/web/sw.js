// Keeps the page for offline use. `zoo export --web` puts a line before this one: const EXPORT = {version, files}.
//
// All files are kept under the version, which is a digest of them. A file is kept only if it has the digest that
// belongs to the version, so that files of two exports never mix. Online, the server is asked for index.html first; if
// it has that of another export, the other files come from the server too, and its own service worker replaces this one.

const PREFIX = `zoo-page ${registration.scope} `;
const CACHE = PREFIX + EXPORT.version;
// Without an answer of the server for so long, the kept page is shown.
const PATIENCE_MS = 4000;
let superseded = false;

async function digestOf(response) {
  const digest = await crypto.subtle.digest("SHA-256", await response.arrayBuffer());
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function keep(name, digest) {
  const response = await fetch(name, { cache: "no-cache" });
  if (!response.ok || (await digestOf(response.clone())) !== digest) {
    throw new Error(`${name} on the server does not belong to this page.`);
  }
  const cache = await caches.open(CACHE);
  await cache.put(urlOf(name), response);
}

function urlOf(name) {
  return new URL(name, registration.scope).href;
}

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(Promise.all(Object.entries(EXPORT.files).map(([name, digest]) => keep(name, digest))));
});

async function removeOthers() {
  for (const name of await caches.keys()) {
    if (name.startsWith(PREFIX) && name !== CACHE) await caches.delete(name);
  }
  await clients.claim();
}

addEventListener("activate", (event) => event.waitUntil(removeOthers()));

async function kept(url) {
  return (await caches.open(CACHE)).match(url);
}

async function page() {
  const url = urlOf("index.html");
  try {
    const response = await fetch(url, { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) {
      superseded = (await digestOf(response.clone())) !== EXPORT.files["index.html"];
      return response;
    }
  } catch {
    // Offline, or the server is slow.
  }
  superseded = false;
  return (await kept(url)) ?? fetch(url);
}

async function file(request) {
  if (!superseded) return (await kept(request.url)) ?? fetch(request);
  try {
    return await fetch(request.url, { cache: "no-cache" });
  } catch {
    return (await kept(request.url)) ?? Response.error();
  }
}

addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  const scope = new URL(registration.scope);
  if (request.method !== "GET" || origin !== scope.origin || !pathname.startsWith(scope.pathname)) return;
  const name = pathname.slice(scope.pathname.length);
  if (request.mode === "navigate" && (name === "" || name === "index.html")) event.respondWith(page());
  else if (Object.hasOwn(EXPORT.files, name)) event.respondWith(file(request));
});
