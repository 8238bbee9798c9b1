// Reads a document into a session, asks about it, and shows what the answer cost.
//
//	example [flags] DOCUMENT QUESTION
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	spotd "spotd/v1"
)

const chunkBytes = 256 * 1024

// dial opens a channel. The pings keep proxies from closing it during a long prefill; the server permits one every
// 10 s.
func dial(address, caFile string) (*grpc.ClientConn, error) {
	transport := grpc.WithInsecure()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
		transport = grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool}))
	}
	return grpc.Dial(address, transport,
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// appendFile streams a document in chunks that may be cut anywhere, then half-closes: only that makes it count.
func appendFile(ctx context.Context, client spotd.InferenceServiceClient, session, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	stream, err := client.Append(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&spotd.AppendRequest{Session: session}); err != nil && err != io.EOF {
		return err
	}
	buffer := make([]byte, chunkBytes)
	for {
		count, readErr := file.Read(buffer)
		if count > 0 {
			chunk := &spotd.Input{Content: &spotd.Input_TextChunk{TextChunk: buffer[:count]}}
			// After io.EOF the reason why the server gave up comes from Recv.
			if err := stream.Send(&spotd.AppendRequest{Input: []*spotd.Input{chunk}}); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
		}
		if readErr == io.EOF {
			break
		} else if readErr != nil {
			return readErr
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if result := response.GetResult(); result != nil {
			fmt.Fprintf(os.Stderr, "\rthe session holds %d tokens\n", result.SessionTokenCount)
			return nil
		}
		progress := response.GetPrefill()
		fmt.Fprintf(os.Stderr, "\rread %d of %d tokens", progress.GetDoneTokens(), progress.GetTotalTokens())
	}
}

// generate prints the answer as it arrives. The last message holds the account.
func generate(ctx context.Context, client spotd.InferenceServiceClient, session, question string,
	maxTokens int32) (*spotd.GenerateResult, error) {
	message := &spotd.ChatMessage{Role: "user", Content: question}
	prompt := &spotd.Input{Content: &spotd.Input_Messages{
		Messages: &spotd.MessageList{Messages: []*spotd.ChatMessage{message}}}}
	stream, err := client.Generate(ctx, &spotd.GenerateRequest{
		Session: session, Prompt: []*spotd.Input{prompt}, Sampling: &spotd.Sampling{MaxTokens: &maxTokens}})
	if err != nil {
		return nil, err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		fmt.Print(response.GetDelta().GetText())
		if result := response.GetResult(); result != nil {
			fmt.Println()
			return result, nil
		}
	}
}

func ask(ctx context.Context, connection *grpc.ClientConn, document, question string, maxTokens int32) error {
	sessions := spotd.NewSessionServiceClient(connection)
	inference := spotd.NewInferenceServiceClient(connection)
	session, err := sessions.CreateSession(ctx, &spotd.CreateSessionRequest{})
	if err != nil {
		return err
	}
	defer sessions.DeleteSession(ctx, &spotd.DeleteSessionRequest{Name: session.Name})
	if err := appendFile(ctx, inference, session.Name, document); err != nil {
		return err
	}
	result, err := generate(ctx, inference, session.Name, question, maxTokens)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d tokens; context %d tokens, %d of them from the session; density %.1f%%\n",
		result.Usage.GeneratedTokens, result.Usage.PromptTokens, result.Usage.SessionTokens,
		100*result.Sparsity.GetDensity())
	return nil
}

// explain adds the machine-readable reason of an error ("SESSION_NOT_FOUND") and when to try again.
func explain(err error) string {
	text := err.Error()
	for _, detail := range status.Convert(err).Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			text += " (" + d.Reason + ")"
		case *errdetails.RetryInfo:
			text += fmt.Sprintf(", retry after %s", d.RetryDelay.AsDuration())
		}
	}
	return text
}

func run() error {
	address := flag.String("address", "127.0.0.1:50051", "the server")
	caFile := flag.String("tls-ca", "", "use TLS; authorities of the server's certificate")
	token := flag.String("token", os.Getenv("SPOTD_TOKEN"), "bearer token")
	maxTokens := flag.Int("max-tokens", 64, "length of the answer")
	flag.Parse()
	if flag.NArg() != 2 {
		return errors.New("usage: example [flags] DOCUMENT QUESTION")
	}
	connection, err := dial(*address, *caFile)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx := context.Background()
	if *token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+*token)
	}
	return ask(ctx, connection, flag.Arg(0), flag.Arg(1), int32(*maxTokens))
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
}
