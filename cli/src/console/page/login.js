// The login form. The session's cookie is set by the answer, and is out of reach for scripts.

const form = document.getElementById("login");
const refused = document.getElementById("refused");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  refused.textContent = "";
  try {
    const answer = await fetch("/login", { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (answer.ok) {
      location.replace("/");
      return;
    }
    refused.textContent = (await answer.json()).error;
  } catch {
    refused.textContent = "the console does not answer";
  }
  form.elements.token.select();
});
