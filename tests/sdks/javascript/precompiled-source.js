// The test component for JavaScript's SDK, with one path for each feature.

addEventListener("fetch", (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const url = new URL(request.url);
  switch (url.pathname.split("/").pop()) {
    case "hello":
      return new Response("hello");
    case "echo":
      return new Response(await request.text());
    case "header":
      return new Response(request.headers.get("spin-path-info"));
    case "print":
      console.log("printed by the component");
      return new Response("printed");
    case "fetch":
      try {
        return await fetch(url.search.slice(1));
      } catch (error) {
        return new Response(String(error), { status: 502 });
      }
    case "trap":
      throw new Error("trap");
    default:
      return new Response(null, { status: 404 });
  }
}
