/* The program that a malformed message must not execute. */
int main(void)
{
	return 42;
}
