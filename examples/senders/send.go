// Sends one event: go run send.go < event.json. Nothing but the standard library.
package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

var (
	url    = os.Getenv("SEALSTREAM_URL")
	source = os.Getenv("SEALSTREAM_SOURCE")
	keyID  = os.Getenv("SEALSTREAM_KEY_ID")
	client = &http.Client{Timeout: 30 * time.Second}
)

// What stands in the file that a variable names, without what is around it.
func file(variable string) string {
	content, err := os.ReadFile(os.Getenv(variable))
	if err != nil {
		log.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// A JWE in compact form. Its header is readable, and nobody can change it.
func seal(aead cipher.AEAD, eventID string, payload []byte) string {
	encode := base64.RawURLEncoding.EncodeToString
	header, err := json.Marshal(map[string]string{
		"alg": "dir", "enc": "A256GCM", "kid": keyID, "jti": eventID, "aud": source,
	})
	if err != nil {
		log.Fatal(err)
	}
	protected := encode(header)
	nonce := make([]byte, 12)
	if _, err := rand.Read(nonce); err != nil {
		log.Fatal(err)
	}
	sealed := aead.Seal(nil, nonce, payload, []byte(protected))
	tag := len(sealed) - 16
	return strings.Join([]string{protected, "", encode(nonce), encode(sealed[:tag]), encode(sealed[tag:])}, ".")
}

func post(secret, body string) (*http.Response, error) {
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + "." + body))
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/jose")
	request.Header.Set("X-Webhook-Timestamp", timestamp)
	request.Header.Set("X-Webhook-Signature", hex.EncodeToString(mac.Sum(nil)))
	return client.Do(request)
}

// Until it is received. Each attempt is sealed and signed anew, under the same event id.
func send(secret string, aead cipher.AEAD, eventID string, payload []byte) (int, string) {
	for attempt := 0; attempt < 8; attempt++ {
		wait := 100 * time.Millisecond << attempt
		answer, err := post(secret, seal(aead, eventID, payload))
		if err == nil {
			said, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if answer.StatusCode != 408 && answer.StatusCode != 429 && answer.StatusCode < 500 {
				return answer.StatusCode, string(said)
			}
			if asked, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
				wait += time.Duration(asked) * time.Second
			}
		} else {
			log.Print(err)
		}
		time.Sleep(wait)
	}
	log.Fatalf("%s was not received: send it again later, under the same id", eventID)
	return 0, ""
}

func main() {
	payload, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	var event struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(payload, &event); err != nil {
		log.Fatal(err)
	}
	key, err := hex.DecodeString(strings.TrimPrefix(file("SEALSTREAM_KEY_FILE"), "hex:"))
	if err != nil {
		log.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		log.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		log.Fatal(err)
	}
	status, said := send(file("SEALSTREAM_SECRET_FILE"), aead, event.ID, payload)
	fmt.Println(status, said)
	if status != http.StatusOK {
		os.Exit(1)
	}
}
